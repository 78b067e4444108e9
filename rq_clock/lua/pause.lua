-- Pause a schedule, or all of them ("*"), or let them go on.
--
-- KEYS  1 definitions   2 pauses   3 revisions   4 revision (counter)   5 news (channel)
-- ARGV  1 schedule or "*"   2 the pause as JSON, or "" to resume
-- Returns 1; 0 when there is no such schedule. The new revision makes what the clock has staged
-- for it stale, so a pause holds from this instant on.

if ARGV[1] ~= '*' and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 0
end
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
redis.call('HSET', KEYS[3], ARGV[1], redis.call('INCR', KEYS[4]))
redis.call('PUBLISH', KEYS[5], ARGV[1])
return 1
