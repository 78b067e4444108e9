-- Give a lock back, or keep it from everyone for a while.
--
-- A lock that ran out without a new holder counts as held: its block was alone.
--
-- KEYS  1 lock (hash, expires)   2 its newest token (expires)
-- ARGV  1 holder   2 its token   3 ms for which it is kept, or 0
-- Returns 1, or 0 when another one has had it since: nothing was written.
-- Sending it again is harmless.

local lock = redis.call('HMGET', KEYS[1], 'owner', 'done')
local ours = lock[1] == ARGV[1]
if not ours and (lock[1] or redis.call('GET', KEYS[2]) ~= ARGV[2]) then
  return 0
end
if lock[2] then return 1 end
if ARGV[3] == '0' then
  redis.call('DEL', KEYS[1])
  return 1
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
-- The first write is one that a full server takes too; then it takes the rest.
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'token', ARGV[2], 'done', now,
  'ttl', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
