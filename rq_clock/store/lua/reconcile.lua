--! keys
-- Make stored schedules what the code declares: put some, remove some. Each is whole or untouched.
--
-- KEYS  1 lease   2 meta
-- ARGV  1 token   2 release   3 now ms   4 ms to keep a removed schedule's ledger
--       then, for each schedule, 7 values:
--       verb ("put" | "remove")   name
--       definition (JSON)   next fire time (ms, or "" for none)
--       "1" to know it since now (it is new, or its trigger changed), else "0"
--       old name, or ""
--       fire time (ms) that had passed before the schedule was first seen, or ""
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

for i = 5, #ARGV, 7 do
  local verb, name = ARGV[i], ARGV[i + 1]
  if verb == 'remove' then
    drop({name}, keep)
  else
    local definition, next_fire, restart, old, past = unpack(ARGV, i + 2, i + 6)
    local known, jobs = state_of(name)
    if not known and old ~= '' and state_of(old) then
      carry_over(old, name)
      known, jobs = state_of(name)
    end
    if not known then
      redis.call('PERSIST', key('ledger:' .. name))
      keep_state(name, '- ' .. now, '')
      if past ~= '' then
        redis.call('RPUSH', key('ledger:' .. name), '- ' .. past .. ' ' .. past .. ' 1 past')
      end
    elseif restart == '1' then
      keep_state(name, string.match(known, '^%S+ ') .. now, jobs)
    end
    redis.call('HSET', key('definitions'), name, definition)
    redis.call('SADD', key('declared'), name)
    redis.call('HSET', key('revisions'), name, redis.call('INCR', key('revision')))
    if next_fire == '' then
      redis.call('ZREM', key('due'), name)
    else
      redis.call('ZADD', key('due'), next_fire, name)
    end
  end
end
redis.call('PUBLISH', key('news'), '*')
return 1
