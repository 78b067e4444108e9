--! keys
-- Correct the due index for some schedules, by their definitions and markers.
--
-- KEYS  1 due
-- ARGV  for each schedule, 4 values:
--       name
--       base ("<marker> <known since>" that its next fire time was reckoned from), or "" for one
--       that is in the index only: there is no such schedule
--       revision   next fire time (ms, or "" for none)
-- Returns how many were corrected. One that moved on since it was read is left as it is: the script
-- that moved it has written the index too. Sending it again is harmless.

local changed = 0
for i = 1, #ARGV, 4 do
  local name, base, revision, fire = unpack(ARGV, i, i + 3)
  local there, same = redis.call('HEXISTS', key('definitions'), name) == 1, false
  if base == '' then
    same = not there
  elseif there then
    same = state_of(name) == base
      and (redis.call('HGET', key('revisions'), name) or '0') == revision
  end
  if same and fire == '' then
    changed = changed + redis.call('ZREM', KEYS[1], name)
  elseif same and tonumber(redis.call('ZSCORE', KEYS[1], name) or '-1') ~= tonumber(fire) then
    redis.call('ZADD', KEYS[1], fire, name)
    changed = changed + 1
  end
end
if changed > 0 then
  redis.call('PUBLISH', key('news'), '*')
end
return changed
