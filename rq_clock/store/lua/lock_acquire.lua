-- Take a lock, or return its holder.
--
-- A token is the server's time in microseconds, or one more than the last token when that is
-- greater: so it grows also after Redis has lost the last ones. Numbers in Lua are exact to 2^53.
--
-- KEYS  1 lock (hash, expires)   2 lock-tokens (hash)
-- ARGV  1 name of the lock   2 caller   3 ms of silence after which it is free
-- Returns {"granted", token}
--         {"held", holder, for how many ms, ms until it is free if nothing is heard}
--         {"done", by whom, ms since then, ms for which it is still kept from everyone}
-- Sending it again is harmless: the holder of the lock is granted the token it has.

local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)

local lock = redis.call('HMGET', KEYS[1], 'owner', 'token', 'since', 'done')
local owner, done = lock[1], lock[4]
if owner == ARGV[2] and not done then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return {'granted', lock[2]}
end
if owner then
  local since = now - (done or lock[3])
  return {done and 'done' or 'held', owner, since, redis.call('PTTL', KEYS[1])}
end

local last = redis.call('HGET', KEYS[2], ARGV[1]) or 0
local token = string.format('%.0f', math.max(last + 1, micros))
redis.call('HSET', KEYS[2], ARGV[1], token)
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'token', token, 'since', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'granted', token}
