--! keys
-- Add the counts that were collected in memory to the counters.
--
-- KEYS  1 lease   2 meta
-- ARGV  1 token, or "" for a decision without the lease   2 the instance that counts, and a number
--       that grows, or ""   then for each: schedule, or "" for all of them; field; how much is added
-- Returns 1, also when it was done before; 0 when the token is no longer the lease's, and nothing
-- was written. What the server refuses is left out: no count may delay a clock.

if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
if ARGV[2] ~= '' then
  if redis.call('HGET', KEYS[2], 'counted') == ARGV[2] then return 1 end
  redis.pcall('HSET', KEYS[2], 'counted', ARGV[2])
end
for i = 3, #ARGV, 3 do
  local name = ARGV[i]
  if name == '' or redis.call('HEXISTS', key('markers'), name) == 1 then
    local counters = name == '' and 'counters' or 'counters:' .. name
    redis.pcall('HINCRBY', key(counters), ARGV[i + 1], ARGV[i + 2])
  end
end
return 1
