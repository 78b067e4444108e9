-- Give the lease back and wake the clocks that stand by.
--
-- KEYS  1 lease   2 unproven   3 news (channel)
-- ARGV  1 token
-- Returns 1, or 0 when the token is no longer the lease's: nothing was written.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
if redis.call('GET', KEYS[2]) == redis.call('HGET', KEYS[1], 'instance') then
  redis.call('DEL', KEYS[2])  -- an orderly end is no failed deposition
end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', KEYS[3], 'lease')
return 1
