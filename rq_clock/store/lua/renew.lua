-- Keep the lease, and write the leader's facts on it.
--
-- KEYS  1 lease   2 unproven   3 meta, which keeps when a clock last led
-- ARGV  1 token   2 ttl ms   3… field, value, field, value; proven=1 among them: the leader
--       has finished its first pass
-- Returns the time in microseconds, or 0 when the token is no longer the lease's: nothing was written.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local clock = redis.call('TIME')
redis.call('HSET', KEYS[3], 'led', clock[1] * 1000 + math.floor(clock[2] / 1000))
for i = 3, #ARGV, 2 do
  if ARGV[i] == 'proven' and ARGV[i + 1] == '1'
    and redis.call('GET', KEYS[2]) == redis.call('HGET', KEYS[1], 'instance') then
    redis.call('DEL', KEYS[2])  -- the deposition that brought it here worked
  end
end
if #ARGV > 2 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 3))
end
return clock[1] * 1000000 + clock[2]
