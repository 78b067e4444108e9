-- Turns of groups; what take.lua, close.lua and care.lua begin with. Jobs of one group run one at a
-- time (or as many as the job's limit says) in the order in which they came to the front of a queue.
-- A job has the turn from then until its end for good, also while it waits for a retry. The others
-- are parked, in RQ's registry of deferred jobs and in the group's list.
--
-- KEYS  1 workers, which tells the prefix of this namespace's keys. Beside it are used
--       <prefix>turns:<group>     set of the jobs whose turn it is
--       <prefix>waiting:<group>   list of the parked jobs
--       <prefix>groups            set of the groups that have any
-- ARGV  none
-- Returns nothing by itself

local prefix = string.sub(KEYS[1], 1, -#'workers' - 1)
local ALIVE = {queued = true, started = true, scheduled = true, deferred = true}

-- Turns of jobs that are not alive any more (deleted, canceled) are free.
local function free_turns(group)
  for _, id in ipairs(redis.call('SMEMBERS', prefix .. 'turns:' .. group)) do
    local status = redis.call('HGET', 'rq:job:' .. id, 'status')
    if not (status and ALIVE[status]) then
      redis.call('SREM', prefix .. 'turns:' .. group, id)
    end
  end
end

-- Let those go on whose turn it is now: to the front of their queues.
local function pass_on(group)
  local turns, waiting = prefix .. 'turns:' .. group, prefix .. 'waiting:' .. group
  while true do
    local id = redis.call('LINDEX', waiting, 0)
    if not id then
      redis.call('SREM', prefix .. 'groups', group)
      return
    end
    local key = 'rq:job:' .. id
    local status, queue, limit =
      unpack(redis.call('HMGET', key, 'status', 'origin', 'rq_clock_group_limit'))
    if status == 'deferred' then
      if redis.call('SCARD', turns) >= tonumber(limit or 1) then
        return
      end
      redis.call('SADD', turns, id)
      redis.call('ZREM', 'rq:deferred:' .. queue, id)
      redis.call('HSET', key, 'status', 'queued')
      redis.call('LPUSH', 'rq:queue:' .. queue, id)
    end
    redis.call('LPOP', waiting)
  end
end

-- A job has ended for good.
local function end_turn(group, id)
  redis.call('SREM', prefix .. 'turns:' .. group, id)
  pass_on(group)
end

-- Whether it is a job's turn; if not, it is parked.
local function my_turn(group, limit, id, queue, now)
  local turns, waiting = prefix .. 'turns:' .. group, prefix .. 'waiting:' .. group
  if redis.call('SISMEMBER', turns, id) == 1 then
    return true
  end
  if redis.call('SCARD', turns) >= limit then
    free_turns(group)
    pass_on(group)
  end
  if redis.call('SCARD', turns) < limit and redis.call('EXISTS', waiting) == 0 then
    redis.call('SADD', turns, id)
    return true
  end
  redis.call('RPUSH', waiting, id)
  redis.call('SADD', prefix .. 'groups', group)
  redis.call('ZADD', 'rq:deferred:' .. queue, now, id)
  redis.call('HSET', 'rq:job:' .. id, 'status', 'deferred')
  return false
end
