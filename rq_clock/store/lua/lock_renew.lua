-- Keep a lock.
--
-- KEYS  1 lock (hash, expires)
-- ARGV  1 holder   2 ms of silence after which it is free
-- Returns the holder, "" for none; when it is another one, nothing was written.

local lock = redis.call('HMGET', KEYS[1], 'owner', 'done')
if lock[1] == ARGV[1] and not lock[2] then  -- a late message must not shorten what "done" keeps
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return lock[1] or ''
