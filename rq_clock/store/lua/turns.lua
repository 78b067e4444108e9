-- Turns of groups. It stands behind keys.lua, before the scripts that name it. Jobs of one group run
-- one at a time, or as many as the job's limit allows, in the order in which they came to the front
-- of a queue. A job has the turn from then until its end for good, also while it waits for a retry.
-- The others are parked, in RQ's registry of deferred jobs and in the group's list.
--
-- KEYS  none
-- ARGV  none
-- Returns nothing by itself

-- Return whether a group's keys have the types that they should; others may have written them.
local function is_sound(group)
  local turns = redis.call('TYPE', key('turns:' .. group)).ok
  local waiting = redis.call('TYPE', key('waiting:' .. group)).ok
  return (turns == 'none' or turns == 'set') and (waiting == 'none' or waiting == 'list')
end

local SOME = 100
local looks = 200  -- at parked jobs, in one script

-- Free the turns of jobs that do not live any more (deleted, canceled). Of a large group some are
-- looked at.
local function free_turns(group)
  local turns = key('turns:' .. group)
  for _, id in ipairs(redis.call('SRANDMEMBER', turns, SOME)) do
    if not is_live(id) then
      redis.call('SREM', turns, id)
    end
  end
end

-- Put the parked jobs whose turn it is now at the front of their queues. Of those that do not wait any
-- more, some are forgotten at a time; the group stays among those to look at.
local function pass_on(group)
  local turns, waiting = key('turns:' .. group), key('waiting:' .. group)
  while looks > 0 do
    looks = looks - 1
    local id = redis.call('LINDEX', waiting, 0)
    if not id then
      redis.call('SREM', key('groups'), group)
      return
    end
    local job = 'rq:job:' .. id
    local status, queue, limit =
      unpack(read('HMGET', job, 'status', 'origin', 'rq_clock_group_limit'))
    if status == 'deferred' and queue then
      if redis.call('SCARD', turns) >= (tonumber(limit) or 1)
        or queue_fault('rq:queue:' .. queue) then return end
      redis.call('SADD', turns, id)
      redis.pcall('ZREM', 'rq:deferred:' .. queue, id)
      redis.call('HSET', job, 'status', 'queued')
      redis.call('LPUSH', 'rq:queue:' .. queue, id)
    end
    redis.call('LPOP', waiting)
  end
end

-- Pass the turn on in a group that may have lost a job.
local function pass_turn(group)
  if group and group ~= '' and is_sound(group) then
    free_turns(group)
    pass_on(group)
  end
end

local function end_turn(group, id)
  if is_sound(group) then
    redis.call('SREM', key('turns:' .. group), id)
    pass_on(group)
  end
end

-- Return whether it is a job's turn; if not, park it. With keys that cannot be used the group has no
-- order: its jobs must not block their queue.
local function my_turn(group, limit, id, queue, now)
  if not is_sound(group) then return true end
  local turns, waiting = key('turns:' .. group), key('waiting:' .. group)
  if redis.call('SISMEMBER', turns, id) == 1 then return true end
  if redis.call('SCARD', turns) >= limit then
    free_turns(group)
    pass_on(group)
  end
  if redis.call('SCARD', turns) < limit and redis.call('EXISTS', waiting) == 0 then
    redis.call('SADD', turns, id)
    return true
  end
  redis.call('RPUSH', waiting, id)
  redis.call('SADD', key('groups'), group)
  redis.pcall('ZADD', 'rq:deferred:' .. queue, now, id)  -- RQ's, for its tools
  redis.call('HSET', 'rq:job:' .. id, 'status', 'deferred')
  return false
end
