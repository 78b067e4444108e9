-- Record how runs ended, for their schedule and the counters. It stands behind keys.lua, before
-- the scripts that name it. A schedule may be of another namespace, whose prefix is `of`. Nothing
-- here may prevent an end: a write that the server refuses is left out.
--
-- KEYS  none
-- ARGV  none
-- Returns nothing by itself

-- Count a run that ended for good under its day, by UTC. The last 30 days are kept.
local function count_day(schedule, state, ended, of)
  local days, day = key('days:' .. schedule, of), math.floor((tonumber(ended) or 0) / 86400000)
  local field = string.format('%d %s', day, state == 'ok' and 'ok' or 'failed')
  if redis.pcall('HINCRBY', days, field, 1) == 1 then  -- the first one of a day
    for _, one in ipairs(read('HKEYS', days)) do
      if (tonumber(string.match(one, '^%d+')) or 0) <= day - 30 then
        redis.call('HDEL', days, one)
      end
    end
  end
  redis.pcall('EXPIRE', days, 30 * 86400)
end

-- Keep how a run ended for good, with the newest success, the newest failure and the number of
-- failures in a row. A run that was stopped is neither.
local function remember(schedule, state, fire, started, ended, of)
  local outcomes, failing = key('outcomes', of), key('failing', of)
  if state ~= 'stopped' then
    count_day(schedule, state, ended, of)
  end
  local before = redis.pcall('HGET', outcomes, schedule)
  local ok, failure, failures =
    string.match(type(before) == 'string' and before or '', '(%S+) (%S+) (%d+)$')
  failures = tonumber(failures or 0)
  if state == 'ok' then
    ok, failures = ended, 0
    redis.pcall('ZREM', failing, schedule)
  elseif state ~= 'stopped' then
    failure, failures = ended, failures + 1
    redis.pcall('ZADD', failing, ended, schedule)
  end
  redis.pcall('HSET', outcomes, schedule, state .. ' ' .. fire .. ' ' .. started .. ' ' .. ended
    .. ' ' .. (ok or '-') .. ' ' .. (failure or '-') .. ' ' .. failures)
end

-- Add to a count of all schedules, and to the schedule's own if there is such a schedule.
local function tally(schedule, field, by, of)
  redis.pcall('HINCRBY', key('counters', of), field, by)
  if schedule then
    redis.pcall('HINCRBY', key('counters:' .. schedule, of), field, by)
  end
end

-- Enter in the ledger how the latest attempt at a run ended. Returns the entry, also when the ledger
-- does not keep it any more.
local function enter(run, ending)
  local ledger, start = key('ledger:' .. run.schedule, run.prefix), ' ' .. run.fire .. ' '
  local length = redis.pcall('LLEN', ledger)
  for i = 1, type(length) == 'number' and length or 0 do
    local head =
      string.match(redis.call('LINDEX', ledger, -i), '^' .. run.codes .. start .. '%-?%d+')
    if head then
      redis.call('LSET', ledger, -i, head .. ' ' .. ending)
      return head .. ' ' .. ending
    end
  end
  return (string.match(run.codes, '^%l$') or 's') .. start .. '- ' .. ending
end

-- Enter in the ledger and in `runs`, which keeps about `cap` entries, how an attempt at a run ended:
-- a table of its id, prefix, schedule, fire and codes, the pattern of its code in the ledger.
-- Returns whether its schedule still exists.
local function finish(run, ending, again, cap)
  redis.pcall('XADD', key('runs', run.prefix), 'MAXLEN', '~', cap, '*', 'schedule', run.schedule,
    'job', run.id, 'entry', enter(run, ending), 'again', again)
  return redis.call('HEXISTS', key('markers', run.prefix), run.schedule) == 1
end

-- Delete an ended job of a queue with everything that belongs to it. RQ spells the key of the jobs
-- that it depended on with two colons.
local function erase(id, queue, of)
  local job = 'rq:job:' .. id
  for _, registry in ipairs({'failed', 'finished', 'canceled'}) do
    redis.pcall('ZREM', 'rq:' .. registry .. ':' .. queue, id)
  end
  redis.call('DEL', job, job .. ':dependents', 'rq:job::' .. id .. ':dependencies',
    'rq:results:' .. id, 'rq:executions:' .. id, key('output:' .. id, of))
end

-- Keep a failed run's job among the newest `cap` of its schedule, and delete those before. A job
-- that lives again, or that another one waits for, is left alone.
local function keep_failed(run, cap)
  local failed = key('failed:' .. run.schedule, run.prefix)
  redis.pcall('LREM', failed, 0, run.id)
  redis.pcall('RPUSH', failed, run.id)
  redis.pcall('EXPIRE', failed, 31536000)  -- as RQ forgets the job
  for _ = 1, math.min((tonumber(redis.pcall('LLEN', failed)) or 0) - cap, 100) do
    local id = redis.call('LPOP', failed)
    local status, queue = unpack(read('HMGET', 'rq:job:' .. id, 'status', 'origin'))
    local over = not status or status == 'failed' or status == 'stopped'
    for _, other in ipairs(read('SMEMBERS', 'rq:job:' .. id .. ':dependents')) do
      over = over and not is_live(other)
    end
    if over then
      erase(id, queue or '', run.prefix)
    end
  end
end
