--! keys
-- Correct the due index and lost or impossible markers of some schedules.
--
-- KEYS  1 due   2 lease
-- ARGV  1 token, or "" for an order of an operator   2 entries a ledger may have, unless the clock has
--       another number   3 zone data by which all schedules have been repaired now, or ""
--       then for each schedule, 6 values:
--       name
--       base ("<marker> <known since>" that the correction is based on), "lost" for one that has no
--       marker, or "" for one that is in the index only: there is no such schedule
--       revision   next fire time (ms, or "" for none)
--       base from now on, or "" to keep it   an entry for its ledger, or ""
-- Returns the names that were corrected, or "lost lease" alone when the token is no longer the
-- lease's. One that moved on since it was read is left as it is: the script that moved it has written
-- the index too. Sending it again is harmless.

if ARGV[1] ~= '' and redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then return {'lost lease'} end

local corrected, cap = {}, ledger_cap(ARGV[2])

local function is_unchanged(name, base, revision)
  local there = redis.call('HEXISTS', key('definitions'), name) == 1
  if base == '' or not there then return base == '' and not there end
  local stored = redis.call('HGET', key('markers'), name)
  local same = base == 'lost' and not stored or base ~= 'lost' and parse(stored) == base
  return same and (redis.call('HGET', key('revisions'), name) or '0') == revision
end

-- Return whether the index changed.
local function move(name, fire)
  if fire == '' then return redis.call('ZREM', KEYS[1], name) == 1 end
  if tonumber(redis.call('ZSCORE', KEYS[1], name) or '-1') == tonumber(fire) then return false end
  redis.call('ZADD', KEYS[1], fire, name)
  return true
end

for i = 4, #ARGV, 6 do
  local name, base, revision, fire, now_base, entry = unpack(ARGV, i, i + 5)
  if is_unchanged(name, base, revision) then
    local changed = move(name, fire)
    if now_base ~= '' then
      local _, jobs = state_of(name)
      keep_state(name, now_base, jobs or '')
    end
    if entry ~= '' then
      append(key('ledger:' .. name), entry, cap)
    end
    if changed or now_base ~= '' then
      corrected[#corrected + 1] = name
    end
  end
end
if ARGV[3] ~= '' then
  redis.call('HSET', key('meta'), 'tzdata', ARGV[3])
end
if #corrected > 0 then
  redis.call('PUBLISH', key('news'), '*')
end
return corrected
