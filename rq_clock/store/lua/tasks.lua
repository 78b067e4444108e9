-- Tasks of callbacks and what several scripts do with them. It stands behind keys.lua, before the
-- scripts that name it in their first line.
--
-- A task's record in `tasks` is one text: 15 words, a space, its auth (see store/tasks.py). A task that
-- waits is in `task-queue:<class>` by the instant from which it may be called. One that is due while
-- its host is at its limit is in a room, `task-room:<kind>`, whose members sort by host, class, instant
-- and id. A host with tasks in rooms is either open (its first task is in `task-open`) or limited (the
-- host is in `task-limited`, by when to look at it again).
--
-- KEYS  none
-- ARGV  none
-- Returns nothing by itself

local RETURNS = 10  -- claims that may run out in a row
local ATTEMPTS = 50  -- kept of each task
local LOOK_MS = 10000  -- until a host at its limit is looked at again, at the latest
local HOSTS = 1000  -- that only fail, kept
local BURST_MS = 500  -- of a steady rate, that may be called at once
local CLASSES = {high = 1, normal = 3, low = 5}  -- and one more for a task that failed
local PATTERN = '^' .. string.rep('(%S+) ', 15) .. '(.*)$'
local SHELVES = {done = key('task-done'), stale = key('task-stale'), canceled = key('task-canceled')}

local function server_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function whole(n)
  return string.format('%.0f', n)
end

-- ---- configuration ----

-- Return the configuration: the defaults, a text of names and values, under what is stored.
local function configuration(defaults)
  local default, found = {}, {}
  for name, value in string.gmatch(defaults, '(%S+) (%S+)') do
    default[name] = value
  end
  local stored = redis.call('HGETALL', key('task-configuration'))
  for i = 1, #stored, 2 do
    found[stored[i]] = stored[i + 1]
  end
  return function(name)
    local number = tonumber(found[name] or '') or tonumber(default[name])
    return number, found[name] or default[name]
  end
end

-- ---- records ----

local function parse_task(record)
  local state, attempt, failures, returns, from, since, owner, batch, created, execute, priority,
    retries, timeout, method, url, auth = string.match(record, PATTERN)
  local class = state and CLASSES[priority]
  if not class or not tonumber(from) then return nil end
  return {
    state = state, attempt = attempt, failures = failures, returns = returns, from = from,
    since = since, owner = owner, batch = batch, created = created, execute = execute,
    priority = priority, retries = retries, timeout = timeout, method = method, url = url,
    auth = auth, class = class, host = string.match(url, '^%w+://([^/?#]+)') or '-',
  }
end

local known = {}  -- tasks that this script has read; false for one that cannot be read

-- Read many tasks at once.
local function read_tasks(ids)
  if #ids == 0 then return end
  for i, record in ipairs(redis.call('HMGET', key('tasks'), unpack(ids))) do
    if known[ids[i]] == nil then
      known[ids[i]] = record and parse_task(record) or false
    end
  end
end

local function read_task(id)
  if known[id] == nil then
    read_tasks({id})
  end
  return known[id]
end

local function record_of(t)
  return table.concat({t.state, t.attempt, t.failures, t.returns, t.from, t.since, t.owner, t.batch,
    t.created, t.execute, t.priority, t.retries, t.timeout, t.method, t.url, t.auth}, ' ')
end

local function keep_task(id, t)
  write('HSET', key('tasks'), id, record_of(t))
end

local function is_calling(t)
  return string.sub(t.state, 1, 8) == 'calling-'
end

local function has_failed(t)
  return t.state == 'retrying' or t.state == 'calling-retrying'
end

local function class_of(t)
  return t.class + (has_failed(t) and 1 or 0)
end

-- ---- queues and rooms ----

-- Return what the tasks of all queues and rooms are ordered by.
local function order_of(id, t)
  return string.format('%d%013.0f %s', class_of(t), tonumber(t.from), id)
end

local function room_of(order)
  return key('task-room:' .. (tonumber(string.sub(order, 1, 1)) % 2 == 1 and 'new' or 'failed'))
end

-- Return the order of the first task of a host that waits for its limit.
local function first_in_room(host)
  local first
  for _, kind in ipairs({'new', 'failed'}) do
    local found = redis.call('ZRANGEBYLEX', key('task-room:' .. kind), '[' .. host .. ' ',
      '(' .. host .. '!', 'LIMIT', 0, 1)[1]
    local order = found and string.sub(found, #host + 2)
    if order and (not first or order < first) then
      first = order
    end
  end
  return first
end

-- Let the tasks that wait for a host's limit be claimed.
local function open_host(host)
  redis.call('ZREM', key('task-limited'), host)
  local first = first_in_room(host)
  if first then
    redis.call('ZADD', key('task-open'), 0, first .. ' ' .. host)
  end
end

-- Put a due task aside, since its host is at its limit until `opens` or later.
local function enter_room(id, t, opens)
  local first = first_in_room(t.host)
  if first then
    redis.call('ZREM', key('task-open'), first .. ' ' .. t.host)
  end
  local order = order_of(id, t)
  redis.call('ZADD', room_of(order), 0, t.host .. ' ' .. order)
  redis.call('ZADD', key('task-limited'), opens, t.host)
end

local function leave_room(order, host)
  local room = redis.call('ZREM', room_of(order), host .. ' ' .. order)
  if redis.call('ZREM', key('task-open'), order .. ' ' .. host) == 1 then
    open_host(host)
  end
  return room == 1
end

local function enqueue_task(id, t)
  write('ZADD', key('task-queue:' .. class_of(t)), t.from, id)
end

-- Take a waiting task out of its queue or room.
local function unqueue_task(id, t)
  flush()
  if redis.call('ZREM', key('task-queue:' .. class_of(t)), id) == 0 then
    leave_room(order_of(id, t), t.host)
  end
end

-- Return the earliest instant of all queues; nil when they are empty.
local function first_queued()
  local first
  for class = 1, 6 do
    local from = tonumber(redis.call('ZRANGE', key('task-queue:' .. class), 0, 0, 'WITHSCORES')[2])
    if from and (not first or from < first) then
      first = from
    end
  end
  return first
end

-- Return when a dispatcher has something to do: a call, a claim that runs out, a host's limit; nil for
-- never.
local function next_due(now)
  if redis.call('ZCARD', key('task-open')) > 0 then return now end
  local first = first_queued() or math.huge
  for _, set in ipairs({key('task-limited'), key('task-claims')}) do
    first = math.min(first, tonumber(redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]) or first)
  end
  return first < math.huge and first or nil
end

-- ---- the end of a claim ----

local throttle

local function read_throttle()
  if not throttle then
    throttle = {}
    local stored = redis.call('HGETALL', key('task-throttle'))
    for i = 1, #stored, 2 do
      throttle[stored[i]] = tonumber(stored[i + 1])
    end
  end
  return throttle
end

local calls = {}  -- host → its calls that are going

local function calls_of(host)
  calls[host] = calls[host] or tonumber(redis.call('HGET', key('task-hosts'), host) or '') or 0
  return calls[host]
end

-- Free what a claim holds: its place among the claims, its host's limit, its place in the batch of the
-- throttle, whose last answer came at `ended`.
local function release(id, t, ended)
  remove('ZREM', key('task-claims'), id)
  calls[t.host] = math.max(calls_of(t.host) - 1, 0)
  local batch = read_throttle()
  if tonumber(t.batch) and tonumber(t.batch) == batch.batch then
    batch.out = math.max((batch.out or 0) - 1, 0)
    batch.ended = math.max(batch.ended or 0, ended)
  end
end

-- Write the calls of hosts and the throttle. A limited host with fewer calls is looked at again.
local function keep_claims(now)
  for host, n in pairs(calls) do
    local before = tonumber(redis.call('HGET', key('task-hosts'), host) or '') or 0
    if n > 0 then
      redis.call('HSET', key('task-hosts'), host, whole(n))
    else
      redis.call('HDEL', key('task-hosts'), host)
    end
    local look = n < before and tonumber(redis.call('ZSCORE', key('task-limited'), host) or '')
    if look and look > now then
      redis.call('ZADD', key('task-limited'), now, host)
    end
  end
  for name, value in pairs(throttle or {}) do
    write('HSET', key('task-throttle'), name, string.format('%.3f', value))
  end
  flush()
end

local function back_to_queue(id, t)
  t.state = string.sub(t.state, 9)
  t.since, t.batch = '-', '-'
  keep_task(id, t)
  enqueue_task(id, t)
end

local function remember_attempt(id, ended, attempt)
  local list = key('task-attempts:' .. id)
  if redis.call('RPUSH', list, whole(ended) .. ' ' .. attempt) > ATTEMPTS then
    redis.call('LTRIM', list, -ATTEMPTS, -1)
  end
end

-- Let others have the dedup keys of tasks that do not live any more.
local function free_keys(ids)
  if redis.call('EXISTS', key('task-keys')) == 0 then return end
  for i, name in ipairs(redis.call('HMGET', key('task-keys'), unpack(ids))) do
    if name and redis.call('HGET', key('task-dedup'), name) == ids[i] then
      redis.call('HDEL', key('task-dedup'), name)
    end
  end
end

-- End a task that is in no queue or claim any more.
local function end_task(id, t, state, now)
  t.state, t.since, t.batch = state, whole(now), '-'
  keep_task(id, t)
  write('ZADD', SHELVES[state], whole(now), id)
  free_keys({id})
end

-- Return how many calls may begin now, at most `limit`, and when the next one may; in the mode
-- after_answers also the number of their batch, and whether it begins with them.
local function allowance(conf, now, limit)
  local state, base, size = read_throttle(), conf('base_interval_ms'), conf('select_size')
  local _, mode = conf('mode')
  if mode == 'off' then return limit, now end
  if mode == 'steady' then
    local gap = base / size
    local burst = math.max(gap, math.min(base, BURST_MS))
    state.tat = math.min(math.max(state.tat or 0, now), now + burst)
    local allowed = math.floor((now + burst - state.tat) / gap + 1e-6)
    return math.min(allowed, limit), math.ceil(state.tat + gap - burst)
  end
  local out, left, batch = state.out or 0, state.left or 0, state.batch or 0
  local longest = math.min(state['until'] or 0, now + 400000)
  if left > 0 and now < longest then return math.min(left, limit), now, batch end
  if out > 0 and now < longest then return 0, longest + base, batch end
  local ended = math.min(out > 0 and longest or state.ended or 0, now)
  if state.batch and now < ended + base then return 0, ended + base, batch end
  return math.min(size, limit), now, batch + 1, true
end

-- ---- counting ----

local counts = {}

local function tally_task(name, n)
  counts[name] = (counts[name] or 0) + (n or 1)
end

-- Write the counts: for ever in `task-counters`, those of calls also of each minute of the last hour.
local function keep_counts(now)
  local minute = math.floor(now / 60000)
  local called = false
  for name, n in pairs(counts) do
    redis.call('HINCRBY', key('task-counters'), name, whole(n))
    local result = string.match(name, '^called (.*)$')
    if result then
      called = true
      redis.call('HINCRBY', key('task-minutes'), whole(minute) .. ' ' .. result, n)
    end
  end
  if called and redis.call('HINCRBY', key('task-minutes'), 'minute', 0) ~= minute then
    redis.call('HSET', key('task-minutes'), 'minute', whole(minute))
    for _, field in ipairs(redis.call('HKEYS', key('task-minutes'))) do
      local of = tonumber(string.match(field, '^(%d+) '))
      if of and (of < minute - 60 or of > minute) then
        redis.call('HDEL', key('task-minutes'), field)
      end
    end
  end
end

-- ---- claims without a result ----

-- Put a task back whose call has no result: the fault is the worker's, so its failures stay. After
-- RETURNS in a row it is stale.
local function lose_claim(id, t, now, line)
  release(id, t, now)
  t.returns = t.returns + 1
  remember_attempt(id, now, line)
  tally_task('called lost')
  if t.returns >= RETURNS then
    end_task(id, t, 'stale', now)
    tally_task('stale')
  else
    back_to_queue(id, t)
  end
end

-- ---- forgetting ----

-- Erase all of tasks but their place in a sorted set.
local function erase_tasks(ids)
  free_keys(ids)
  for _, hash in ipairs({'tasks', 'task-details', 'task-tags', 'task-keys'}) do
    redis.call('HDEL', key(hash), unpack(ids))
  end
  local attempts = {}
  for i, id in ipairs(ids) do
    attempts[i], known[id] = key('task-attempts:' .. id), false
  end
  redis.call('DEL', unpack(attempts))
end

-- Forget ended tasks beyond what is kept, at most `limit` of each kind.
local function trim_tasks(conf, now, limit)
  for state, shelf in pairs(SHELVES) do
    local keep = state == 'stale' and math.huge or conf('keep_done')
    local age = state == 'stale' and conf('keep_stale_days') * 24 or conf('keep_done_hours')
    local beyond = math.min(redis.call('ZCARD', shelf) - keep, limit)
    local ids = beyond > 0 and redis.call('ZRANGE', shelf, 0, beyond - 1) or redis.call(
      'ZRANGEBYSCORE', shelf, '-inf', whole(now - age * 3600000), 'LIMIT', 0, limit)
    if #ids > 0 then
      redis.call('ZREM', shelf, unpack(ids))
      erase_tasks(ids)
    end
  end
end
