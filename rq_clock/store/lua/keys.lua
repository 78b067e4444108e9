-- The keys of a namespace and what several scripts do with them. It stands before the scripts that
-- name it in their first line.
--
-- KEYS  1 any key of the namespace: it has the prefix of all others
-- ARGV  read by `take`, from `position` on
-- Returns nothing by itself

local function prefix_of(name)
  return string.match(name, '^[^:]*:[^:]*:')
end

local prefix, position = prefix_of(KEYS[1]), 1

-- A key of this namespace, or of the one whose prefix is `of`.
local function key(name, of)
  return (of or prefix) .. name
end

local function take()
  position = position + 1
  return ARGV[position - 1]
end

-- Take the words of a command, whose number comes first.
local function take_command()
  local first = position + 1
  position = first + ARGV[position]
  return unpack(ARGV, first, position - 1)
end

-- Return a revision as clients read it: what others have written there is none.
local function number_of(revision)
  return revision and string.match(revision, '^%d+$') or '0'
end

-- Run a command about a key of others. Returns an empty table when the key is of another type.
local function read(...)
  local found = redis.pcall(...)
  return type(found) == 'table' and found.err and {} or found
end

-- Read a part of a set of any size: from `cursor` on at least `count` members, if there are so many.
-- Returns where to go on, "0" at the end, and the members.
local function some_members(set, cursor, count)
  local found = {}
  repeat
    local page = read('SSCAN', set, cursor, 'COUNT', count)
    cursor = page[1] or '0'
    for _, member in ipairs(page[2] or {}) do
      found[#found + 1] = member
    end
  until cursor == '0' or #found >= tonumber(count)
  return cursor, found
end

-- Run a command that may fail. Returns its error, without the place that Redis 6 writes before it.
local function attempt(...)
  local reply = redis.pcall(...)
  local fault = type(reply) == 'table' and reply.err or nil
  return fault and (string.gsub(fault, '^@user_script: ?%d+: ', ''))
end

-- Writes of pairs, and removals, are gathered into long commands, since thousands may come at once.
-- `flush` carries out the rest: first the removals, which are from other sets than the writes.
local gathered, lengths, removals = {}, {}, {}

local function write(command, to, first, second)
  local words, length = gathered[to], lengths[to]
  if not words then
    words, length = {command, to}, 2
    gathered[to] = words
  end
  words[length + 1], words[length + 2] = first, second
  lengths[to] = length + 2
  if length > 4000 then
    redis.call(unpack(words))
    gathered[to] = nil
  end
end

local function remove(command, from, member)
  local words = removals[from] or {command, from}
  words[#words + 1] = member
  removals[from] = words
  if #words > 4000 then
    redis.call(unpack(words))
    removals[from] = nil
  end
end

local function flush()
  for from, words in pairs(removals) do
    redis.call(unpack(words))
    removals[from] = nil
  end
  for to, words in pairs(gathered) do
    redis.call(unpack(words))
    gathered[to] = nil
  end
end

-- ---- jobs ----

local LIVE = {queued = true, started = true, scheduled = true, deferred = true}

-- Return whether the worker of a started job gives signs of life. Ours has its place until the reaper
-- finds it dead; of a stock one RQ's list of executions expires, 2.5 minutes after the last sign.
local function is_executed(id, worker)
  local slot = worker and redis.pcall('HGET', key('workers'), worker)
  local ours = type(slot) == 'string' and string.find(slot, ' ' .. id .. ' ', 1, true)
  return ours or redis.call('EXISTS', 'rq:executions:' .. id) == 1
end

local function is_live(id)
  local status, worker = unpack(read('HMGET', 'rq:job:' .. id, 'status', 'worker_name'))
  return status and LIVE[status] and (status ~= 'started' or is_executed(id, worker)) or false
end

-- Return the live ones of these jobs, which are separated by spaces.
local function living(jobs)
  local found = {}
  for id in string.gmatch(jobs, '%S+') do
    found[#found + 1] = is_live(id) and id or nil
  end
  return found
end

local kinds = {}

-- Return why a queue takes no job; nil when it does.
local function queue_fault(queue)
  if not kinds[queue] then
    local reply = redis.pcall('TYPE', queue)
    if reply.err then return reply.err end
    kinds[queue] = reply.ok
  end
  if kinds[queue] ~= 'none' and kinds[queue] ~= 'list' then
    return 'the key ' .. queue .. ' of its queue is a ' .. kinds[queue] .. ', not a list'
  end
end

local function undo(id, queue)
  redis.pcall('LREM', queue, -1, id)
  redis.pcall('DEL', 'rq:job:' .. id)
end

-- Enqueue a job whose commands come next in ARGV: their number, then for each the number of its
-- words and the words. All of them or none. Returns the fault, and whether the job was there before;
-- then it is left alone.
local function enqueue(id, queue)
  local exists, fault = redis.call('EXISTS', 'rq:job:' .. id) == 1, queue_fault(queue)
  for _ = 1, tonumber(take()) do
    if exists or fault then
      position = position + 1 + ARGV[position]
    else
      fault = attempt(take_command())
    end
  end
  if fault and not exists then
    undo(id, queue)
  end
  return fault, exists
end

-- Return another of these jobs that has the same fire time.
local function twin(id, jobs)
  local start = string.match(id, '^(.*)%-[mb]%d+$') or id
  for _, other in ipairs(jobs) do
    if other ~= id and (other == start or string.sub(other, 1, #start + 1) == start .. '-') then
      return other
    end
  end
end

-- ---- schedules ----

-- A schedule's value in markers is its base, "<marker or -> <known since>", and then the jobs that
-- overlap looks at. Both as text; nil when there is none.
local function parse(state)
  return string.match(state or '', '^(%S+ %S+) ?(.*)$')
end

local function format(base, jobs)
  return jobs == '' and base or base .. ' ' .. jobs
end

local function state_of(name, of, default)
  return parse(redis.call('HGET', key('markers', of), name) or default)
end

local function keep_state(name, base, jobs, of)
  redis.call('HSET', key('markers', of), name, format(base, jobs))
end

-- Let overlap look at a job that the clock did not enqueue, beside those that live. The job that the
-- clock enqueued last stays the last, ended or not: the clock recognises its commit by it.
local function add_job(jobs, id, alive)
  local last = string.match(jobs, '%S+$')
  if last and alive[#alive] ~= last then
    alive[#alive + 1] = last
  end
  return table.concat({id, unpack(alive)}, ' ')
end

-- Return how many entries a ledger may have: as the leading clock says, or else as the caller does.
local function ledger_cap(own)
  return tonumber(redis.call('HGET', key('meta'), 'history') or own)
end

-- Add an entry to a ledger of at most `cap` entries. Returns the server's error.
local function append(ledger, entry, cap)
  local length = redis.pcall('RPUSH', ledger, entry)
  if type(length) == 'table' then return length.err end
  if length > cap then
    redis.call('LTRIM', ledger, -cap, -1)
  end
end

-- Enter an enqueued fire time in a ledger.
local function record(ledger, code, fire, now, cap)
  local lag = math.max(now - fire, 0)  -- the clock's host may be ahead of this server
  return append(ledger, code .. ' ' .. fire .. ' ' .. lag, cap)
end

local HASHES = {'definitions', 'markers', 'revisions', 'pauses', 'skips', 'succeeded', 'outcomes'}

-- Let the fire times of a schedule count from another instant on. What is decided stays decided.
local function restart(name, base, jobs, since)
  local marker = string.match(base, '^%S+')
  if marker ~= '-' and tonumber(marker) > tonumber(since) then
    since = marker
  end
  keep_state(name, marker .. ' ' .. since, jobs)
end

-- ---- backfills ----

-- Leave a backfill for the leader; its fields and values follow.
local function start_backfill(id, now, ...)
  if redis.call('EXISTS', key('backfill:' .. id)) == 1 then return false end
  redis.call('HSET', key('backfill:' .. id), ...)
  redis.call('ZADD', key('backfills'), now, id)
  redis.call('ZADD', key('duties'), now, 'backfill:' .. id)
  redis.call('PUBLISH', key('news'), ':duties')
  return true
end

-- Call `change` with the key of each unfinished backfill of schedules (their names are keys; "*" for
-- all), its duty and its schedule.
local function each_backfill(schedules, change)
  for _, duty in ipairs(redis.call('ZRANGE', key('duties'), 0, -1)) do
    local backfill = string.match(duty, '^backfill:') and key(duty)
    local schedule = backfill and redis.pcall('HGET', backfill, 'schedule')
    if type(schedule) == 'string' and (schedules[schedule] or schedules['*']) then
      change(backfill, duty, schedule)
    end
  end
end

-- Cancel the backfills of removed schedules.
local function cancel_backfills(schedules, keep)
  each_backfill(schedules, function(backfill, duty)
    redis.call('HSET', backfill, 'state', 'canceled')
    redis.call('PEXPIRE', backfill, keep)
    redis.call('ZREM', key('duties'), duty)
  end)
end

-- ---- all state of a schedule ----

-- Forget schedules. Their ledgers stay for `keep` ms.
local function drop(names, keep)
  for first = 1, #names, 1000 do
    local some, others = {unpack(names, first, math.min(first + 999, #names))}, {}
    for _, hash in ipairs(HASHES) do
      redis.call('HDEL', key(hash), unpack(some))
    end
    redis.call('SREM', key('declared'), unpack(some))
    redis.call('ZREM', key('due'), unpack(some))
    redis.call('ZREM', key('failing'), unpack(some))
    for i, name in ipairs(some) do
      others[2 * i - 1], others[2 * i] = key('counters:' .. name), key('days:' .. name)
      redis.call('PEXPIRE', key('ledger:' .. name), keep)
      redis.call('PEXPIRE', key('failed:' .. name), keep)
    end
    redis.call('DEL', unpack(others))
  end
end

-- Move all state of a schedule to another name, but for its backfills.
local function carry_over(old, new)
  for _, hash in ipairs(HASHES) do
    local value = redis.call('HGET', key(hash), old)
    if value then
      redis.call('HSET', key(hash), new, value)
    end
  end
  local failing = redis.call('ZSCORE', key('failing'), old)
  if failing then
    redis.call('ZADD', key('failing'), failing, new)
  end
  for _, kind in ipairs({'ledger:', 'counters:', 'days:', 'failed:'}) do
    if redis.call('EXISTS', key(kind .. old)) == 1 then
      redis.call('RENAME', key(kind .. old), key(kind .. new))
    end
  end
  drop({old}, 0)
end
