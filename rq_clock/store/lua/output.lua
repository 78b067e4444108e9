--! keys
-- Store the output of a run. The oldest outputs go when all together are too large.
--
-- A place is the number of bytes that were written up to there, so the newest ones whose places are
-- within the limit fit into it: no sum is kept that could become wrong when outputs expire.
--
-- KEYS  1 outputs   2 output of the run
-- ARGV  1 job   2 its output   3 seconds to keep it   4 limit of all, bytes
-- Returns nothing

local LARGEST = 64 * 1024  -- of an output, which may lie on the border
local OVERHEAD = 256  -- bytes of Redis's own for one more output
local before = redis.call('EXISTS', KEYS[2]) == 1 and redis.call('STRLEN', KEYS[2]) or -OVERHEAD
local newest = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or 0
local place = newest + #ARGV[2] - before
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
redis.call('ZADD', KEYS[1], place, ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
local first = place - ARGV[4] + LARGEST
local oldest = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', first, 'LIMIT', 0, 100)
for _, job in ipairs(oldest) do
  redis.call('DEL', key('output:' .. job))
  redis.call('ZREM', KEYS[1], job)
end
