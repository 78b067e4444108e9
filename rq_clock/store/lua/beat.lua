-- A worker's sign of life, for itself and for its execution.
--
-- KEYS  1 workers   2 lease   3 reaper
-- ARGV  1 worker   2 now, epoch seconds   3 now, as RQ writes it   4 seconds until RQ counts a
--       silent execution as abandoned   5 the same for a silent worker   6 ms for which a worker
--       is the reaper when no clock leads
-- Returns "gone"   this worker was counted as dead, and its job went to another one
--         "well"
--         "reap"   well, and as no clock leads, this worker has to reap the dead
-- The first write is one that a full server takes too; then it takes the rest (redis.io, "scripts
-- and memory limits"). A worker must not look dead because the server is full.

local slot, key = redis.call('HGET', KEYS[1], ARGV[1]), 'rq:worker:' .. ARGV[1]
if not slot or redis.call('EXPIRE', key, ARGV[5]) == 0 then return 'gone' end
redis.call('HSET', key, 'last_heartbeat', ARGV[3])

local execution, id, queue = string.match(slot, '^%d+ (%S+) (%S+) (.+)$')
local time = redis.call('TIME')
local beat = time[1] .. string.format('%06d', time[2])
redis.call('HSET', KEYS[1], ARGV[1],
  execution and (beat .. ' ' .. execution .. ' ' .. id .. ' ' .. queue) or beat)
if execution and redis.call('ZSCORE', 'rq:wip:' .. queue, id .. ':' .. execution) then
  local own, all = 'rq:execution:' .. id .. ':' .. execution, 'rq:executions:' .. id
  redis.call('HSET', own, 'last_heartbeat', ARGV[2])
  redis.call('EXPIRE', own, ARGV[4])
  redis.call('ZADD', all, ARGV[2] + ARGV[4] + 60, execution)
  redis.call('EXPIRE', all, ARGV[4] + 60)
  redis.call('ZADD', 'rq:wip:' .. queue, 'XX', ARGV[2] + ARGV[4], id .. ':' .. execution)
  if redis.call('EXISTS', 'rq:job:' .. id) == 1 then
    redis.call('HSET', 'rq:job:' .. id, 'last_heartbeat', ARGV[3])
  end
end

if redis.call('EXISTS', KEYS[2]) == 1 then return 'well' end
local reaper = redis.call('GET', KEYS[3])
if not reaper or reaper == ARGV[1] or redis.call('PTTL', KEYS[3]) > tonumber(ARGV[6]) then
  redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[6])
  return 'reap'
end
return 'well'
