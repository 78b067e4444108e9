-- Make stored schedules what the code declares: put some, remove some. Each is whole or untouched.
--
-- KEYS  1 lease   2 meta   3 definitions   4 declared   5 markers   6 revisions   7 pauses
--       8 due   9 revision (counter)   10 news (channel)   11 skips   12 chores   13 succeeded
--       14 outcomes   15 failing   16 counters
-- ARGV  1 token   2 release   3 now ms   4 prefix of the ledger keys   5 ms to keep a removed
--       schedule's ledger   then, for each schedule, 7 values:
--       verb ("put" | "remove")   name
--       definition (JSON)   next fire time (ms, or "" for none)
--       "1" to know it since now (it is new, or its rule of time changed), else "0"
--       old name, or ""
--       fire time (ms) that had passed before the schedule was first seen, or ""
-- Returns 1; 0 when the token is no longer the lease's; -1 when a later release of the same owner
-- has written here. Nothing was written then.
--
-- A put keeps marker, pause and ledger; a changed one raises the revision, so what was decided on
-- the old definition is refused at commit. A rename carries marker, pause and ledger over, once.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
local release, now, ledger = tonumber(ARGV[2]), ARGV[3], ARGV[4]
if release > 0 then
  if tonumber(redis.call('HGET', KEYS[2], 'release') or '0') > release then
    return -1
  end
  redis.call('HSET', KEYS[2], 'release', release)
end

local function drop(name)
  redis.call('HDEL', KEYS[3], name)
  redis.call('SREM', KEYS[4], name)
  redis.call('HDEL', KEYS[5], name)
  redis.call('HDEL', KEYS[6], name)
  redis.call('HDEL', KEYS[7], name)
  redis.call('HDEL', KEYS[11], name)
  redis.call('HDEL', KEYS[13], name)
  redis.call('HDEL', KEYS[14], name)
  redis.call('ZREM', KEYS[15], name)
  redis.call('DEL', KEYS[16] .. ':' .. name)
  redis.call('ZREM', KEYS[8], name)
  redis.call('ZREM', KEYS[12], 'pause:' .. name)
end

local function carry_over(old, name)
  for _, key in ipairs({KEYS[5], KEYS[7], KEYS[11], KEYS[13], KEYS[14]}) do
    local value = redis.call('HGET', key, old)
    if value then
      redis.call('HSET', key, name, value)
    end
  end
  local ends = redis.call('ZSCORE', KEYS[12], 'pause:' .. old)
  if ends then
    redis.call('ZADD', KEYS[12], ends, 'pause:' .. name)
  end
  local failure = redis.call('ZSCORE', KEYS[15], old)
  if failure then
    redis.call('ZADD', KEYS[15], failure, name)
  end
  for _, prefix in ipairs({ledger, KEYS[16] .. ':'}) do
    if redis.call('EXISTS', prefix .. old) == 1 then
      redis.call('RENAME', prefix .. old, prefix .. name)
    end
  end
  drop(old)
end

for i = 6, #ARGV, 7 do
  local verb, name = ARGV[i], ARGV[i + 1]
  if verb == 'remove' then
    drop(name)
    redis.call('PEXPIRE', ledger .. name, ARGV[5])
  else
    local definition, next_fire, restart, old, past = unpack(ARGV, i + 2, i + 6)
    local state = redis.call('HGET', KEYS[5], name)
    if not state and old ~= '' and redis.call('HEXISTS', KEYS[5], old) == 1 then
      carry_over(old, name)
      state = redis.call('HGET', KEYS[5], name)
    end
    if not state then
      redis.call('PERSIST', ledger .. name)
      redis.call('HSET', KEYS[5], name, '- ' .. now)
      if past ~= '' then
        redis.call('RPUSH', ledger .. name, '- ' .. past .. ' ' .. past .. ' 1 past')
      end
    elseif restart == '1' then
      local marker, jobs = string.match(state, '^(%S+) %S+(.*)$')
      redis.call('HSET', KEYS[5], name, marker .. ' ' .. now .. jobs)
    end
    redis.call('HSET', KEYS[3], name, definition)
    redis.call('SADD', KEYS[4], name)
    redis.call('HSET', KEYS[6], name, redis.call('INCR', KEYS[9]))
    if next_fire == '' then
      redis.call('ZREM', KEYS[8], name)
    else
      redis.call('ZADD', KEYS[8], next_fire, name)
    end
  end
end
redis.call('PUBLISH', KEYS[10], '*')
return 1
