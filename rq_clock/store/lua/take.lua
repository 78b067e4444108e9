--! keys turns
-- Take the next job and begin its execution, in one step: a job is in its queue or in RQ's started
-- registry, and never on the way between them.
--
-- KEYS  1 workers   2 rq:suspended   3… the queues, in order
-- ARGV  1 worker   2 id for the execution   3 now, epoch seconds   4 now, as RQ writes it
--       5 seconds until RQ counts a silent execution as abandoned
-- Returns {"gone"}             this worker was counted as dead; it has to register again
--         {"nothing"}          there is no job
--         {"suspended"}        RQ's tools have suspended all work
--         {"more"}             many were parked, and there may be others
--         {"undeclared", id}   the job's meta names a group that its hash does not
--         {"unreadable", id}   an id that RQ refuses: out of its queue, and failed if it is a job's
--         {"job", execution, job id, name of its queue, newest successful fire time or "", hash}
-- Sending it again is harmless: a worker that has an execution gets that one again.

local PARKED_LIMIT = 200  -- in one go: a few milliseconds
local slot = redis.call('HGET', KEYS[1], ARGV[1])
if not slot then return {'gone'} end
local now, text, ttl = ARGV[3], ARGV[4], ARGV[5]
local ours = string.match(prefix, ':(.*):$') .. '-'

local function answer(execution, id, queue)
  local previous = ''
  if string.sub(id, 1, #ours) == ours then
    local schedule = string.match(string.sub(id, #ours + 1), '^(.+)%-%d+$')
    previous = schedule and redis.call('HGET', key('succeeded'), schedule) or ''
  end
  return {'job', execution, id, queue, previous, redis.call('HGETALL', 'rq:job:' .. id)}
end

local execution, id, queue = string.match(slot, '^%d+ (%S+) (%S+) (.+)$')
if execution then return answer(execution, id, queue) end
if redis.call('EXISTS', KEYS[2]) == 1 then return {'suspended'} end

local function begin()
  local own, all = 'rq:execution:' .. id .. ':' .. execution, 'rq:executions:' .. id
  redis.call('HSET', own, 'id', execution, 'created_at', now, 'last_heartbeat', now,
    'worker_name', ARGV[1])
  redis.call('EXPIRE', own, ttl)
  redis.pcall('ZADD', all, now + ttl + 60, execution)  -- others may have written it
  redis.call('EXPIRE', all, ttl + 60)
  redis.call('ZADD', 'rq:wip:' .. queue, now + ttl, id .. ':' .. execution)
  redis.call('HSET', 'rq:job:' .. id, 'status', 'started', 'started_at', text,
    'last_heartbeat', text, 'worker_name', ARGV[1])
  redis.pcall('HINCRBY', 'rq:job:' .. id, 'rq_clock_attempt', 1)  -- as this
  redis.call('PERSIST', 'rq:job:' .. id)
  redis.call('HSET', 'rq:worker:' .. ARGV[1], 'state', 'busy', 'current_job', id,
    'current_job_working_time', '0', 'last_heartbeat', text)
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], ARGV[1],
    time[1] .. string.format('%06d', time[2]) .. ' ' .. execution .. ' ' .. id .. ' ' .. queue)
  return answer(execution, id, queue)
end

-- The first id in a queue; one whose list or registry is of another type has none, and stops no other
-- queue.
local function head(list)
  local id = redis.pcall('LINDEX', list, 0)
  local registry = type(id) == 'string' and redis.call('TYPE', 'rq:wip:' .. queue).ok
  return (registry == 'zset' or registry == 'none') and id
end

local parked = 0
execution = ARGV[2]
for i = 3, #KEYS do
  queue = string.sub(KEYS[i], #'rq:queue:' + 1)
  id = head(KEYS[i])
  while id do
    local fields = redis.pcall('HMGET', 'rq:job:' .. id,
      'rq_clock_group', 'rq_clock_group_limit', 'meta', 'created_at')
    local group, limit, meta, data = unpack(fields.err and {} or fields)  -- an error: no hash
    if data and not group and meta and string.find(meta, 'rq_clock', 1, true)
      and string.find(meta, 'group', 1, true) then
      return {'undeclared', id}
    end
    redis.call('LPOP', KEYS[i])
    if not string.find(id, '^[!-~]+$') then
      if data then redis.call('HSET', 'rq:job:' .. id, 'status', 'failed', 'ended_at', text) end
      return {'unreadable', id}
    end
    if data then  -- else it was deleted since it was enqueued
      if not group or group == ''
        or my_turn(group, tonumber(limit) or 1, id, queue, now) then
        return begin()
      end
      parked = parked + 1
      if parked == PARKED_LIMIT then return {'more'} end
    end
    id = head(KEYS[i])
  end
end
return {'nothing'}
