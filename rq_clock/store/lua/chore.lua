-- Ask the leader for a backfill, or cancel one; take a chore off the list that is done.
--
-- KEYS  1 the backfill (hash)   2 backfills   3 chores   4 audit   5 news (channel)
-- ARGV  1 "ask" | "cancel"   2 id   3 now ms   4 entries the audit may have
--       5 to ask: how many there were when it was thought out, or "" if that is no matter
--       6 number of words of the entry for the audit, then these
--       … to ask: field, value, field, value
--    or 1 "done"   2 chore   3 when it was to be looked at, ms
-- Returns 1; 0 when there is one with this id already, none that runs to be canceled, or a chore
-- that is to be looked at another time by now: somebody has asked for it anew; -1 when another
-- backfill was asked for meanwhile, which may enqueue the same

if ARGV[1] == 'done' then
  local when = redis.call('ZSCORE', KEYS[3], ARGV[2])
  return when and tonumber(when) == tonumber(ARGV[3]) and redis.call('ZREM', KEYS[3], ARGV[2]) or 0
end

local words = 7 + tonumber(ARGV[6])
if ARGV[1] == 'ask' then
  if redis.call('EXISTS', KEYS[1]) == 1 then
    return 0
  end
  if ARGV[5] ~= '' and tonumber(ARGV[5]) ~= redis.call('ZCARD', KEYS[2]) then
    return -1
  end
  redis.call('HSET', KEYS[1], unpack(ARGV, words))
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2])
  redis.call('ZADD', KEYS[3], ARGV[3], 'backfill:' .. ARGV[2])
else
  if redis.call('HGET', KEYS[1], 'state') ~= 'running' then
    return 0
  end
  redis.call('HSET', KEYS[1], 'state', 'canceled')
  redis.call('ZADD', KEYS[3], ARGV[3], 'backfill:' .. ARGV[2])
end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[4], '*', unpack(ARGV, 7, words - 1))
redis.call('PUBLISH', KEYS[5], ':chores')
return 1
