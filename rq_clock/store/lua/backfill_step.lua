--! keys outcomes
-- Go on with a backfill: enqueue its next fire times.
--
-- KEYS  1 lease   2 the backfill (hash)   3 its queue
-- ARGV  1 token   2 id   3 cursor that this is based on (ms or "")   4 new cursor
--       5 fire times left out with this step   6 state after it: running | done
--       7 when to look again, ms   8 entries a ledger may have   9 now ms
--       10 its jobs that still lived, separated by spaces   11 ms to keep it when it is over
--       12 revision of its schedule   13 revision of "*"
--       14 number of jobs, then for each: job id, fire time (ms), its commands as `enqueue` takes
--          them
-- Returns "ok", "lost" (the token is no longer the lease's), "stale" (it went on, was canceled or
-- is gone, or its schedule was changed: it may be paused), or the fault. Only "ok" has written, or,
-- where a server takes no more writes, the jobs before the fault; their ids keep them from being
-- enqueued twice.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 'lost' end
local duty, keep = 'backfill:' .. ARGV[2], ARGV[11]
local state, cursor, schedule = unpack(redis.call('HMGET', KEYS[2], 'state', 'cursor', 'schedule'))

local function finish_duty()
  redis.call('ZREM', key('duties'), duty)
  redis.call('PEXPIRE', KEYS[2], keep)
end

if state ~= 'running' then
  finish_duty()
  return 'stale'
end
if (cursor or '') ~= ARGV[3] then return 'stale' end
local revisions = redis.call('HMGET', key('revisions'), schedule, '*')
if (revisions[1] or '0') ~= ARGV[12] or (revisions[2] or '0') ~= ARGV[13] then return 'stale' end

local known = redis.call('HEXISTS', key('markers'), schedule) == 1 and schedule
local cap, jobs, enqueued = ledger_cap(ARGV[8]), {}, 0
for id in string.gmatch(ARGV[10], '%S+') do
  jobs[#jobs + 1] = id
end
position = 15
for _ = 1, tonumber(ARGV[14]) do
  local id, fire = take(), take()
  local fault, before = enqueue(id, KEYS[3])
  if fault then
    redis.pcall('HINCRBY', KEYS[2], 'enqueued', enqueued)
    return fault
  end
  if not before then
    record(key('ledger:' .. schedule), 'b', fire, ARGV[9], cap)
    tally(known, 'fire enqueued backfill', 1)
    enqueued = enqueued + 1
  end
  jobs[#jobs + 1] = id
end
redis.call('HINCRBY', KEYS[2], 'enqueued', enqueued)
redis.call('HINCRBY', KEYS[2], 'skipped', ARGV[5])
redis.call('HSET', KEYS[2], 'cursor', ARGV[4], 'state', ARGV[6], 'jobs', table.concat(jobs, ' '))
if ARGV[6] == 'running' then
  redis.call('ZADD', key('duties'), ARGV[7], duty)
else
  finish_duty()
end
redis.call('ZREMRANGEBYSCORE', key('backfills'), '-inf', ARGV[9] - keep)
return 'ok'
