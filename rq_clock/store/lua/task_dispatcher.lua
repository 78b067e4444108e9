--! keys tasks
-- Who may dispatch: each dispatcher has a place for as long as it gives signs of life.
--
-- KEYS  1 tasks
-- ARGV  1 "enter" | "beat" | "leave" | "hand-over" (leave, where a successor follows) | "look"
--       2 owner   3 ms of its lease
--       4 the configuration's defaults   5 of "enter": the owner whose place it takes over, or ""
-- Returns {1 if the owner has a place, places in use, places there are, now, when a dispatcher has
-- something to do or ""}
-- Sending it again is harmless.

local verb, owner, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local conf, now, set = configuration(ARGV[4]), server_ms(), key('task-dispatchers')
local places = conf('dispatchers')

if verb ~= 'look' then
  redis.call('ZREMRANGEBYSCORE', set, '-inf', now)
  redis.call('ZREMRANGEBYSCORE', set, '(' .. whole(now + lease * 2), '+inf')  -- the time went back
end
if verb == 'enter' and ARGV[5] ~= '' then
  redis.call('ZREM', set, ARGV[5])
end
local has = redis.call('ZSCORE', set, owner)
if verb == 'leave' or verb == 'hand-over' then
  redis.call('ZREM', set, owner)
  has = nil
elseif verb == 'beat' and has or verb == 'enter' and (has or redis.call('ZCARD', set) < places) then
  redis.call('ZADD', set, now + lease, owner)
  has = true
end

local due = next_due(now)
if due and due <= now then
  local allowed, opens = allowance(conf, now, 1)
  due = allowed > 0 and due or opens
end
if due and verb == 'leave' then
  redis.call('PUBLISH', key('news'), ':callbacks')  -- the clock has to look when that is
end
return {has and 1 or 0, redis.call('ZCOUNT', set, whole(now), '+inf'), places, whole(now),
  due and whole(due) or ''}
