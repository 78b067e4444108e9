--! keys tasks
-- Read how callbacks are. The cost does not depend on the number of tasks.
--
-- KEYS  1 tasks
-- ARGV  1 hosts to look at
-- Returns {now, tasks that are waiting, calling, retrying, done, stale, canceled; due, the earliest
-- instant of these or ""; dispatchers; hosts that only fail, calls by minute, counters: each a hash}

local now = server_ms()
local waiting = redis.call('ZCARD', key('task-room:new'))
local retrying = redis.call('ZCARD', key('task-room:failed'))
local due, earliest = waiting + retrying, nil
for class = 1, 6 do
  local queue = key('task-queue:' .. class)
  local n = redis.call('ZCARD', queue)
  if class % 2 == 1 then
    waiting = waiting + n
  else
    retrying = retrying + n
  end
  due = due + redis.call('ZCOUNT', queue, '-inf', whole(now))
end

local first = first_queued()
if first and first <= now then
  earliest = first
end
local hosts = redis.call('ZRANGE', key('task-limited'), 0, ARGV[1])
for _, member in ipairs(redis.call('ZRANGE', key('task-open'), 0, ARGV[1])) do
  hosts[#hosts + 1] = string.match(member, '%S+$')
end
for _, host in ipairs(hosts) do
  local order = first_in_room(host)
  local from = order and tonumber(string.sub(order, 2, 14))
  if from and (not earliest or from < earliest) then
    earliest = from
  end
end

local counters = redis.call('HGETALL', key('task-counters'))
return {whole(now), waiting, redis.call('ZCARD', key('task-claims')), retrying,
  redis.call('ZCARD', SHELVES.done), redis.call('ZCARD', SHELVES.stale),
  redis.call('ZCARD', SHELVES.canceled), due, earliest and whole(earliest) or '',
  redis.call('ZCOUNT', key('task-dispatchers'), whole(now), '+inf'),
  redis.call('HGETALL', key('task-failing')), redis.call('HGETALL', key('task-minutes')), counters}
