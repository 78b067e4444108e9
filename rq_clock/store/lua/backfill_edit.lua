--! audit
-- Create a backfill for the leader, or cancel one; take a duty that is done off the list.
--
-- KEYS  1 backfills
-- ARGV  1 "create" | "cancel"   2 id   3 now ms   4 entries the audit may have
--       5 to create: how many there were when it was planned, or "" if that does not matter
--         to cancel: ms to keep it
--       6 number of words of the entry for the audit, then these
--       … to create: field, value, field, value
--    or 1 "finish"   2 duty   3 when it was due, ms
--       … and the last, as audit.lua takes it
-- Returns 1; 0 when there is one with this id already, none that runs to be canceled, or a duty that
-- is due at another time by now, because it was created again; -1 when another backfill was
-- created meanwhile, which may enqueue the same

local verb, id, now = ARGV[1], ARGV[2], ARGV[3]
if verb == 'finish' then
  local due = redis.call('ZSCORE', key('duties'), id)
  return due and tonumber(due) == tonumber(now) and redis.call('ZREM', key('duties'), id) or 0
end

local words = 7 + tonumber(ARGV[6])
if verb == 'create' then
  if ARGV[5] ~= '' and tonumber(ARGV[5]) ~= redis.call('ZCARD', KEYS[1]) then
    return -1
  end
  if not start_backfill(id, now, unpack(ARGV, words)) then return 0 end
else
  local backfill = key('backfill:' .. id)
  if redis.call('HGET', backfill, 'state') ~= 'running' then return 0 end
  redis.call('HSET', backfill, 'state', 'canceled')
  redis.call('PEXPIRE', backfill, ARGV[5])
  redis.call('ZREM', key('duties'), 'backfill:' .. id)
end
audit(ARGV[4], unpack(ARGV, 7, words - 1))
return 1
