-- Take the lease, or return its holder.
--
-- The newest clock of the same owner wins: a clock that starts takes the lease from a living
-- holder. Two bounds keep a crash loop from starving the clock that works: a holder that has
-- not finished its first pass ("proven") is left alone until its lease runs out, and after such
-- a failure nobody is deposed for ARGV[8] ms.
--
-- KEYS  1 lease (hash, expires)   2 fence (counter)   3 meta (hash)   4 unproven (expires)
--       5 news (channel)   6 handovers (stream)   7 counters
-- ARGV  1 owner   2 its former name, or ""   3 instance   4 mode: starting | waiting | take-over |
--       foreign (another owner had the namespace before)
--       5 ttl ms   6 data version   7 now ms (shown only)   8 pause between depositions, ms
-- Returns {"granted", token}
--         {"held", ms until it runs out, instance}
--         {"foreign", owner of the namespace, instance or ""}
--         {"ownerless"}                          foreign, and there is no owner
--         {"version", that of the data}
-- Sending it again is harmless: an instance that holds the lease is granted the token it has.
-- Each new grant is an entry of the handovers, of which about a hundred are kept.

local owner, former, instance, mode = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local meta = redis.call('HMGET', KEYS[3], 'version', 'owner')
if meta[1] and meta[1] ~= ARGV[6] then return {'version', meta[1]} end

if not meta[2] and mode == 'foreign' then return {'ownerless'} end

local lease = redis.call('HMGET', KEYS[1], 'token', 'instance', 'proven')
local token, holder = lease[1], lease[2]
local ours = not meta[2] or meta[2] == owner or (former ~= '' and meta[2] == former)
if not ours and mode ~= 'take-over' then
  return {'foreign', meta[2], holder or ''}
end

if token then
  if holder == instance then
    -- A server that takes no writes, also one that is full and would take PEXPIRE, grants nothing.
    redis.call('HSET', KEYS[1], 'instance', instance)
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
    return {'granted', token}
  end
  if redis.call('PTTL', KEYS[4]) > tonumber(ARGV[8]) then
    redis.call('PEXPIRE', KEYS[4], ARGV[8])
  end
  local may_depose = mode == 'take-over'
    or (mode == 'starting' and lease[3] == '1' and redis.call('EXISTS', KEYS[4]) == 0)
  if not may_depose then
    -- A server whose clock went back lets a key live on: no lease is longer than it was given.
    if redis.call('PTTL', KEYS[1]) > tonumber(ARGV[5]) then
      redis.call('PEXPIRE', KEYS[1], ARGV[5])
    end
    return {'held', redis.call('PTTL', KEYS[1]), holder}
  end
  redis.call('SET', KEYS[4], instance, 'PX', ARGV[8])
end

-- The instance in the token keeps it unique even after Redis lost the counter.
local number = redis.call('INCR', KEYS[2])
token = number .. '.' .. instance
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'token', token, 'instance', instance, 'owner', owner,
  'since', ARGV[7], 'proven', '0')
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('HSET', KEYS[3], 'version', ARGV[6], 'owner', owner)
local how = holder and 'deposed' or 'free'
if not ours or (holder and mode == 'take-over') then
  how = 'taken-over'
end
-- A server that cannot keep the history still grants the lease.
redis.pcall('XADD', KEYS[6], 'MAXLEN', '~', '100', '*', 'instance', instance, 'owner', owner,
  'token', number, 'how', how, 'from', holder or '')
redis.pcall('HINCRBY', KEYS[7], 'leader ' .. how, 1)
redis.call('PUBLISH', KEYS[5], 'lease')
return {'granted', token}
