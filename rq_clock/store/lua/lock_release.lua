-- Give a lock back, or keep it from everyone for a while.
--
-- A lock that ran out without a new holder counts as held: its block was alone.
--
-- KEYS  1 lock (hash, expires)   2 lock-tokens (hash)
-- ARGV  1 name of the lock   2 holder   3 its token   4 ms for which it is kept, or 0
-- Returns 1, or 0 when another one has had it since: nothing was written.
-- Sending it again is harmless.

local lock = redis.call('HMGET', KEYS[1], 'owner', 'done')
local ours = lock[1] == ARGV[2]
if not ours and (lock[1] or redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[3]) then
  return 0
end
if lock[2] then return 1 end
if ARGV[4] == '0' then
  redis.call('DEL', KEYS[1])
  return 1
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
-- The first write is one that a full server takes too; then it takes the rest.
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'token', ARGV[3], 'done', now)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
