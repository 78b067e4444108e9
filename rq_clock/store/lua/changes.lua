-- Read what open pages depend on. While the answer is the same, a page that was rendered stays right.
--
-- KEYS  1 revision   2 due   3 failing   4 duties   5 lease   6 alerts   7 workers
--       8 output of the job that the page shows   9 handovers   10 runs   11 audit
--       12 task-counters   13 task-claims
-- ARGV  1 ms after which a fire time counts as late
--       2 s after which a page is old, because it shows ages
-- Returns a hash. The cost does not depend on the number of schedules or jobs.

local QUEUES = 100  -- looked at one by one

local clock = redis.call('TIME')
local seen = {math.floor(clock[1] / ARGV[2])}
local function see(...)
  seen[#seen + 1] = redis.pcall(...)  -- a key of others may be of another type
  return seen[#seen]
end

see('GET', KEYS[1])
see('ZRANGE', KEYS[2], 0, 9, 'WITHSCORES')  -- every decision changes one of the soonest
see('ZCOUNT', KEYS[2], '-inf', string.format('%d', clock[1] * 1000 - ARGV[1]))
see('ZCARD', KEYS[3])
see('ZRANGE', KEYS[4], 0, 9, 'WITHSCORES')
see('HMGET', KEYS[5], 'token', 'proven')  -- not its figures, which change every second
see('HLEN', KEYS[6])
see('STRLEN', KEYS[8])
see('GETRANGE', KEYS[8], 0, 40)  -- how much came before
see('HGETALL', KEYS[12])  -- tasks that were added, calls that ended
see('ZCARD', KEYS[13])
for _, stream in ipairs({KEYS[9], KEYS[10], KEYS[11]}) do
  see('XREVRANGE', stream, '+', '-', 'COUNT', 1)
end

local workers = {}
local found = redis.pcall('HGETALL', KEYS[7])
for i = 1, #found, 2 do  -- without the sign of life
  workers[#workers + 1] = found[i] .. string.gsub(found[i + 1], '^%S+', '', 1)
end
table.sort(workers)
seen[#seen + 1] = workers

see('SCARD', 'rq:queues')
local queues, cursor = {}, '0'
repeat
  local page = redis.pcall('SSCAN', 'rq:queues', cursor, 'COUNT', QUEUES)
  cursor = page[1] or '0'
  for _, queue in ipairs(page[2] or {}) do
    queues[#queues + 1] = queue
  end
until cursor == '0' or #queues >= QUEUES
if #queues > 0 then
  table.sort(queues)
  for i = 1, math.min(#queues, QUEUES) do
    local name = string.gsub(queues[i], '^rq:queue:', '', 1)
    see('LLEN', queues[i])
    for _, registry in ipairs({'wip', 'failed', 'scheduled', 'deferred'}) do
      see('ZCARD', 'rq:' .. registry .. ':' .. name)
    end
  end
  seen[#seen + 1] = queues
end
return redis.sha1hex(cmsgpack.pack(seen))
