-- Let a one-off dyno begin its command, once.
--
-- The platform may start a dyno twice, and a request whose reply was lost may be sent again: of all
-- dynos of a run the first one runs the command.
--
-- KEYS  1 dyno (hash, expires)
-- ARGV  1 owner: this dyno   2 seconds for which the record is kept
-- Returns "begun", "taken" when another one has begun, "unknown" when there is no such run.
-- Sending it again is harmless: the owner has begun.

local record = redis.call('HMGET', KEYS[1], 'job', 'owner')
if not record[1] then return 'unknown' end
if record[2] then return record[2] == ARGV[1] and 'begun' or 'taken' end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'began', now)
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 'begun'
