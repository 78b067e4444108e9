-- Take a lock, or return its holder.
--
-- A token is the server's time in microseconds, or one more than the last token when that is
-- greater: so it grows also after Redis has lost the last one, which is kept for 30 days in case the
-- server's clock goes back. Numbers in Lua are exact to 2^53.
--
-- KEYS  1 lock (hash, expires)   2 its newest token (expires)
-- ARGV  1 caller   2 ms of silence after which it is free
-- Returns {"granted", token}
--         {"held", holder, for how many ms, ms until it is free if nothing is heard}
--         {"done", by whom, ms since then, ms for which it is still kept from everyone}
-- Sending it again is harmless: the holder of the lock is granted the token it has.

local KEEP_MS = 30 * 24 * 3600 * 1000
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)

local lock = redis.call('HMGET', KEYS[1], 'owner', 'token', 'since', 'done', 'ttl')
local owner, done = lock[1], lock[4]
if owner == ARGV[1] and not done then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {'granted', lock[2]}
end
if owner then
  local since = now - (done or lock[3])
  local left, ttl = redis.call('PTTL', KEYS[1]), tonumber(lock[5] or '') or math.huge
  if left > ttl then  -- the server's clock went back, which lets a key live on
    redis.call('PEXPIRE', KEYS[1], ttl)
    left = ttl
  end
  return {done and 'done' or 'held', owner, since, left}
end

local last = redis.call('GET', KEYS[2]) or 0
local token = string.format('%.0f', math.max(last + 1, micros))
redis.call('SET', KEYS[2], token, 'PX', string.format('%.0f', KEEP_MS + ARGV[2]))
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'token', token, 'since', string.format('%.0f', now),
  'ttl', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {'granted', token}
