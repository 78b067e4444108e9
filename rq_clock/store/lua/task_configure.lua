--! audit
-- Change the configuration of callbacks, with an entry in the audit.
--
-- KEYS  1 task-configuration
-- ARGV  1 entries the audit may have   2 number of words of the entry, then these
--       … field, value; "" for the default
--       … and the last, as audit.lua takes it
-- Returns 1

local words = 3 + tonumber(ARGV[2])
for i = words, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
audit(ARGV[1], unpack(ARGV, 3, words - 1))

-- Look at all limited hosts again: their limits may have changed.
local limited = redis.call('ZCARD', key('task-limited'))
if limited > 0 then
  redis.call('ZUNIONSTORE', key('task-limited'), 1, key('task-limited'), 'WEIGHTS', 0)
end
redis.call('PUBLISH', key('news'), ':callbacks')
return 1
