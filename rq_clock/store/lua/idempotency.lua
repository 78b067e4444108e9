-- Keep what was answered to a request that carries a key of its own, and see to it that one at a
-- time works on it.
--
-- KEYS  1 the key's record: request, began ms, who, until ms, answer
-- ARGV  1 claim | answer | yield | drop   2 who asks, a random word
--       claim: 3 hash of the request   4 ms for which a record is kept
--              5 ms after which a request that says nothing has broken off
--       answer: 3 the answer
-- Returns claim:  {"claimed", ms}      go on; ms is the instant of this claim
--                 {"again", ms}        go on; a request that broke off had claimed it at ms, or
--                                      this one, and has not heard of it
--                 {"other"}            the key belongs to another request
--                 {"running", ms}      the first one is at work, for so long at most
--                 {"answered", text}   what was answered
--         answer, yield (somebody may go on), drop (nothing was done): 1, or 0 when somebody else
--         works on it by now

local record, verb, who = KEYS[1], ARGV[1], ARGV[2]

if verb ~= 'claim' then
  if redis.call('HGET', record, 'who') ~= who then
    return 0
  elseif verb == 'answer' then
    redis.call('HSET', record, 'answer', ARGV[3])
  elseif verb == 'yield' then
    redis.call('HSET', record, 'until', 0)
  else
    redis.call('DEL', record)
  end
  return 1
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = string.format('%d', now + ARGV[5])
local request, began, ends, answer, holder =
  unpack(redis.call('HMGET', record, 'request', 'began', 'until', 'answer', 'who'))
if not request then
  began = string.format('%d', now)
  redis.call('HSET', record, 'request', ARGV[3], 'began', began, 'who', who, 'until', lease)
  redis.call('PEXPIRE', record, ARGV[4])
  return {'claimed', began}
elseif request ~= ARGV[3] then
  return {'other'}
elseif answer then
  return {'answered', answer}
elseif holder ~= who and tonumber(ends) > now then
  return {'running', tonumber(ends) - now}
end
redis.call('HSET', record, 'who', who, 'until', lease)
return {'again', began}
