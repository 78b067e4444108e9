--! keys turns
-- Read the workers, move the jobs of RQ's scheduled registries whose time has come to their
-- queues, and let groups go on whose job was deleted or canceled when it had the turn.
--
-- KEYS  1 workers   2 rq:queues
-- ARGV  1 now, epoch seconds   2 now, as RQ writes it   3 limit of jobs to move at once
--       4 where to go on in the queues, "0" for their start   5 queues to look at
-- Returns {workers, the next instant at which a job of these queues is due, epoch seconds, or "",
--         where to go on, "0" at the end, job id…}
-- A queue that a stock RQ scheduler has locked is left to it. A key of another type is one queue's or
-- group's problem, or the workers': there is nothing to read in it.

local left, soonest, moved = tonumber(ARGV[3]), nil, {}
local cursor, queues = some_members(KEYS[2], ARGV[4], ARGV[5])
for _, queue in ipairs(queues) do
  local name = string.sub(queue, #'rq:queue:' + 1)
  local registry = 'rq:scheduled:' .. name
  local waits = #read('ZRANGE', registry, 0, 0) > 0
  if waits and redis.call('EXISTS', 'rq:scheduler-lock:' .. name) == 0 and not queue_fault(queue) then
    local due = read('ZRANGEBYSCORE', registry, '-inf', ARGV[1], 'LIMIT', 0, left)
    for _, id in ipairs(due) do
      local job = 'rq:job:' .. id
      redis.call('ZREM', registry, id)
      left = left - 1
      if redis.call('TYPE', job).ok == 'hash' then
        redis.call('HSET', job, 'status', 'queued', 'enqueued_at', ARGV[2])
        local first, again, ended = unpack(redis.call('HMGET', job, 'enqueue_at_front',
          'enqueue_at_front_on_retry', 'ended_at'))
        local front = first == '1' or (again == '1' and ended and ended ~= '')
        redis.call(front and 'LPUSH' or 'RPUSH', queue, id)
        moved[#moved + 1] = id
      end
    end
    local first = read('ZRANGE', registry, 0, 0, 'WITHSCORES')[2]
    if first and (not soonest or tonumber(first) < soonest) then
      soonest = tonumber(first)
    end
  end
end
for _, group in ipairs(read('SRANDMEMBER', key('groups'), ARGV[3])) do
  pass_turn(group)
end
return {read('HGETALL', KEYS[1]), soonest and tostring(soonest) or '', cursor,
  unpack(moved)}
