-- Go on with a backfill: enqueue its next fire times.
--
-- KEYS  1 lease   2 the backfill (hash)   3 chores   4 the schedule's ledger   5 backfills
--       6 its queue   7 counters   8 markers
-- ARGV  1 token   2 id   3 cursor that this is based on (ms or "")   4 new cursor
--       5 fire times left out with this step   6 state after it: running | done
--       7 when to look again, ms   8 entries a ledger may have   9 now ms
--       10 its jobs that still lived, separated by spaces   11 ms to keep it when it is over
--       12 number of jobs, then for each: job id, fire time (ms), its commands as jobs.lua takes
--          them
-- Returns "ok", "lost" (the token is no longer the lease's), "stale" (it went on, was canceled or
-- is gone), or what stood in the way. Only with "ok" anything was written, or, where a server takes
-- no more writes, those before it; their ids keep them from being enqueued twice.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 'lost'
end
local chore = 'backfill:' .. ARGV[2]
local state, cursor = unpack(redis.call('HMGET', KEYS[2], 'state', 'cursor'))
if state ~= 'running' then
  redis.call('ZREM', KEYS[3], chore)
  redis.call('PEXPIRE', KEYS[2], ARGV[11])
  return 'stale'
end
if (cursor or '') ~= ARGV[3] then
  return 'stale'
end

local schedule = redis.call('HGET', KEYS[2], 'schedule')
schedule = redis.call('HEXISTS', KEYS[8], schedule) == 1 and schedule
local jobs, enqueued = {}, 0
for id in string.gmatch(ARGV[10], '%S+') do
  jobs[#jobs + 1] = id
end
position = 13
for _ = 1, tonumber(ARGV[12]) do
  local id, fire = take(), take()
  local failure, before = enqueue(id, KEYS[6])
  if failure then
    redis.pcall('HINCRBY', KEYS[2], 'enqueued', enqueued)
    return failure
  end
  if not before then
    record(KEYS[4], 'b', fire, ARGV[9], ARGV[8])
    tally(KEYS[7], schedule, 'fire enqueued backfill', 1)
    enqueued = enqueued + 1
  end
  jobs[#jobs + 1] = id
end
redis.call('HINCRBY', KEYS[2], 'enqueued', enqueued)
redis.call('HINCRBY', KEYS[2], 'skipped', ARGV[5])
redis.call('HSET', KEYS[2], 'cursor', ARGV[4], 'state', ARGV[6], 'jobs', table.concat(jobs, ' '))
if ARGV[6] == 'running' then
  redis.call('ZADD', KEYS[3], ARGV[7], chore)
else
  redis.call('ZREM', KEYS[3], chore)
  redis.call('PEXPIRE', KEYS[2], ARGV[11])
end
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', ARGV[9] - ARGV[11])
return 'ok'
