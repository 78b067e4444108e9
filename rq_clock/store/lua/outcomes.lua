-- How runs ended, for the books of their schedule, and counts; what close.lua, lost.lua and others
-- begin with. None of this may stand in the way of an end: what the server refuses here is left out.
--
-- KEYS  none
-- ARGV  none
-- Returns nothing by itself

-- Keep how a run has ended for good, beside the newest success and failure before it. A run that
-- was stopped is neither.
local function remember(outcomes, failing, schedule, state, fire, started, ended)
  local before = redis.pcall('HGET', outcomes, schedule)
  local ok, failure = string.match(type(before) == 'string' and before or '', '(%S+) (%S+)$')
  if state == 'ok' then
    ok = ended
    redis.pcall('ZREM', failing, schedule)
  elseif state ~= 'stopped' then
    failure = ended
    redis.pcall('ZADD', failing, ended, schedule)
  end
  redis.pcall('HSET', outcomes, schedule, state .. ' ' .. fire .. ' ' .. started .. ' ' .. ended
    .. ' ' .. (ok or '-') .. ' ' .. (failure or '-'))
end

-- Add to a count of all schedules, and to the schedule's own if there is such a schedule.
local function tally(counters, schedule, field, by)
  redis.pcall('HINCRBY', counters, field, by)
  if schedule then
    redis.pcall('HINCRBY', counters .. ':' .. schedule, field, by)
  end
end

-- Enter in a ledger how the latest attempt at a fire time ended; its entry then, also when that is
-- not kept any more.
local function finish(ledger, marks, fire, ending)
  local length = redis.pcall('LLEN', ledger)
  for i = 1, type(length) == 'number' and length or 0 do
    local head = string.match(redis.call('LINDEX', ledger, -i),
      '^' .. marks .. ' ' .. fire .. ' %-?%d+')
    if head then
      redis.call('LSET', ledger, -i, head .. ' ' .. ending)
      return head .. ' ' .. ending
    end
  end
  return (string.match(marks, '^%l$') or 's') .. ' ' .. fire .. ' - ' .. ending
end
