-- Read a page of the due index.
--
-- KEYS  1 due
-- ARGV  1 the lowest score, exclusive, or "-inf"   2 the last schedule of the page before, or ""
--       3 its score   4 the highest score   5 limit
-- Returns schedule, score, …: the soonest first
-- A schedule that leaves the index between two pages hides no other: when it was the last one of
-- its page, those of its score come again.

local first
local score = redis.call('ZSCORE', KEYS[1], ARGV[2])
if score and tonumber(score) == tonumber(ARGV[3]) then
  first = redis.call('ZRANK', KEYS[1], ARGV[2]) + 1
elseif ARGV[2] ~= '' then
  first = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[3])
else
  return redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], ARGV[4], 'WITHSCORES', 'LIMIT', 0, ARGV[5])
end
local last = math.min(first + ARGV[5], redis.call('ZCOUNT', KEYS[1], '-inf', ARGV[4])) - 1
if last < first then return {} end
return redis.call('ZRANGE', KEYS[1], first, last, 'WITHSCORES')
