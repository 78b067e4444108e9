-- Store the alerts of the leading clock.
--
-- KEYS  1 lease   2 alerts
-- ARGV  1 token   … then pairs: field, its new value, or "" to remove it
-- Returns 1; 0 when the token is no longer the lease's: nothing was written.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
-- A full server takes this write, and then the others: it is now that alerts are needed.
redis.call('HDEL', KEYS[2], '')
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[2], ARGV[i])
  else
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
return 1
