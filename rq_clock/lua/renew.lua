-- Keep the lease, and leave on it what the leader has to say of itself.
--
-- KEYS  1 lease   2 unproven
-- ARGV  1 token   2 ttl ms   3… field, value, field, value (at least one pair)
-- Returns 1, or 0 when the token is no longer the lease's: nothing was written.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
local proven, instance = unpack(redis.call('HMGET', KEYS[1], 'proven', 'instance'))
if proven == '1' and redis.call('GET', KEYS[2]) == instance then
  redis.call('DEL', KEYS[2])  -- the one that deposed is through its first pass
end
return 1
