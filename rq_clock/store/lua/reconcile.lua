--! keys
-- Make stored schedules what the code declares: put some, remove some. Each is whole or untouched.
--
-- KEYS  1 lease   2 meta
-- ARGV  1 token   2 release   3 now ms   4 ms to keep a removed schedule's ledger
--       then, for each schedule, 7 values:
--       verb ("put" | "remove")   name
--       definition (JSON)   next fire time (ms, or "" for none)
--       known since from now on (ms), if it is new or its trigger changed, else ""; behind that the
--       base (" <marker> <known since>") that it may still have for its marker to go as well
--       old name, or ""
--       skip for its ledger, or ""
-- Returns 1; 0 when the token is no longer the lease's; -1 when a later release of the same owner
-- has written here. Nothing was written then.
--
-- A put keeps marker, pause and ledger; a changed one raises the revision, so a decision based on
-- the old definition is refused at commit. A rename carries marker, pause and ledger over, once.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
local release, now, keep = tonumber(ARGV[2]), ARGV[3], ARGV[4]
if release > 0 then
  if tonumber(redis.call('HGET', KEYS[2], 'release') or '0') > release then
    return -1
  end
  redis.call('HSET', KEYS[2], 'release', release)
end

local gone, put, removed, renamed = {}, {}, {}, {}
local last = redis.call('INCRBY', key('revision'), (#ARGV - 4) / 7)
for i = 5, #ARGV, 7 do
  local verb, name = ARGV[i], ARGV[i + 1]
  if verb == 'remove' then
    if ARGV[i + 6] ~= '' then
      redis.pcall('RPUSH', key('ledger:' .. name), ARGV[i + 6])
    end
    gone[#gone + 1], removed[name] = name, true
  else
    local definition, next_fire, since, old, skip = unpack(ARGV, i + 2, i + 6)
    local known, jobs = state_of(name)
    if not known and old ~= '' and state_of(old) then
      carry_over(old, name)
      renamed[old] = name
      known, jobs = state_of(name)
    end
    if not known then
      redis.call('PERSIST', key('ledger:' .. name))
      keep_state(name, '- ' .. (string.match(since, '^%d+') or now), '')
    elseif since ~= '' then
      local from, base = string.match(since, '^(%d+) ?(.*)$')
      if base == known then
        keep_state(name, '- ' .. from, jobs)
      else
        restart(name, known, jobs, from)
      end
    end
    if skip ~= '' then
      redis.call('RPUSH', key('ledger:' .. name), skip)
    end
    put[#put + 1] = name
    write('HSET', key('definitions'), name, definition)
    write('HSET', key('revisions'), name, string.format('%d', last - (#ARGV - 6 - i) / 7))
    if next_fire == '' then
      redis.call('ZREM', key('due'), name)
    else
      write('ZADD', key('due'), next_fire, name)
    end
  end
end
flush()
if #put > 0 then redis.call('SADD', key('declared'), unpack(put)) end
drop(gone, keep)
if next(renamed) then
  each_backfill(renamed, function(backfill, _, old)
    redis.call('HSET', backfill, 'schedule', renamed[old])
  end)
end
if next(removed) then
  cancel_backfills(removed, keep)
end
redis.call('PUBLISH', key('news'), '*')
return 1
