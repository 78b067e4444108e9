-- Commit a batch of decisions: enqueue the jobs, move the markers, write the ledger.
--
-- Each schedule of the batch stands alone: it is committed whole or left as it was. What can be
-- known beforehand is checked before its first write; what fails in the middle is undone.
--
-- KEYS  1 lease   2 markers   3 revisions   4 due   5 definitions   6 pauses   7 skips
--       8 succeeded   9 outcomes   10 failing   11 counters
-- ARGV  1 token, or "" for who decides beside the clock what a change would else take away
--       2 prefix of the ledger keys   3 entries a ledger may have   4 revision of "*"
--       5 prefix of RQ's job keys
--       6 number of shapes, then for each what is the same in the commands of many jobs:
--         number of commands, then the number of words of each; the words of all
--         number of places, then each: which of the words are a job's own
--         number of schedules, then for each schedule:
--         name
--         base ("<marker> <known since>" that the decision is based on)   revision
--         new marker (ms)   next fire time (ms; "" for none; "end" for a one-off job that is
--         over now: only its ledger and its run stay, the ledger for a day)
--         overlap ("skip" | "allow")
--         number of skips, then for each: first ms, last ms, count, reason
--         number of jobs, then for each:
--           job id   fire time (ms)   ledger mark (see store.py)   key of its queue   its shape
--         then for each job, in order: a word for each place of its shape
-- Returns {"lost"}                    the token is no longer the lease's; nothing was written
--         {"changed"}                 the revision of "*" moved on; nothing was written
--         {"error", text}             the server takes no writes at all; nothing was written
--         {"done", now ms, answer…}   one answer a schedule, in order:
--           "ok"                          enqueued and marked
--           "overlap <job id>…"           the marker moved, the fire time is a skip: these still live
--           "stale <revision> <state>"    based on an old state; untouched. The state holds marker
--                                         and last job, so an earlier success whose reply was lost
--                                         is recognised as one. A removed schedule has no state.
--           "error <text>"                could not be written; untouched
-- Sending it again is harmless: what was done once is stale.

if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return {'lost'}
end

local ledger_prefix, ledger_cap, job_prefix = ARGV[2], tonumber(ARGV[3]), ARGV[5]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local position = 6

local function take()
  position = position + 1
  return ARGV[position - 1]
end

local shapes = {}
for s = 1, tonumber(take()) do
  local shape, length = {ends = {}, places = {}}, 0
  for c = 1, tonumber(take()) do
    length = length + take()
    shape.ends[c] = length
  end
  shape.words = {unpack(ARGV, position, position + length - 1)}
  position = position + length
  for p = 1, tonumber(take()) do
    shape.places[p] = tonumber(take())
  end
  shapes[s] = shape
end

-- What Redis stores of each schedule, and the batch's own words, side by side.
local entries, names, own = {}, {}, 0
for i = 1, tonumber(take()) do
  local entry = {name = take(), base = take(), revision = take(), marker = take(),
    next_fire = take(), overlap = take(), skips = {}, jobs = {}}
  for s = 1, tonumber(take()) do
    entry.skips[s] = {take(), take(), take(), take()}
  end
  for j = 1, tonumber(take()) do
    local job = {id = take(), fire = take(), mark = take(), queue = take(),
      shape = shapes[tonumber(take())], own = own}
    own = own + #job.shape.places
    entry.jobs[j] = job
  end
  entries[i], names[i] = entry, entry.name
end
local states = redis.call('HMGET', KEYS[2], unpack(names))
names[#names + 1] = '*'
local revisions = redis.call('HMGET', KEYS[3], unpack(names))
if (revisions[#names] or '0') ~= ARGV[4] then
  return {'changed'}
end
for i, key in ipairs({KEYS[2], KEYS[4]}) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= (i == 1 and 'hash' or 'zset') then
    return {'error', 'WRONGTYPE ' .. key .. ' is a ' .. kind}
  end
end

local LIVE = {queued = true, started = true, scheduled = true, deferred = true}

local function living(jobs)
  local found = {}
  for id in string.gmatch(jobs, '%S+') do
    local status = redis.pcall('HGET', job_prefix .. id, 'status')
    if type(status) == 'string' and LIVE[status] then
      found[#found + 1] = id
    end
  end
  return found
end

local queue_types = {}

-- What would make a write of this schedule fail, asked before the first one.
local function obstacle(entry)
  local length = redis.pcall('LLEN', ledger_prefix .. entry.name)
  if type(length) == 'table' then
    return 'its ledger: ' .. length.err
  end
  for _, job in ipairs(entry.jobs) do
    local kind = queue_types[job.queue]
    if not kind then
      kind = redis.call('TYPE', job.queue).ok
      queue_types[job.queue] = kind
    end
    if kind ~= 'none' and kind ~= 'list' then
      return 'the key ' .. job.queue .. ' of its queue is a ' .. kind .. ', not a list'
    end
  end
end

-- Leave out jobs for which `taken` gives a reason: their fire times become skips.
local function leave_out(entry, taken)
  local left = {}
  for _, job in ipairs(entry.jobs) do
    local reason = taken(job)
    if reason then
      entry.skips[#entry.skips + 1] = {job.fire, job.fire, 1, reason}
    else
      left[#left + 1] = job
    end
  end
  entry.jobs = left
end

-- A job id names its fire time. One that exists although the marker says otherwise (someone
-- deleted markers, a replica came back old) was enqueued before: a second time is never right.
local function duplicate(job)
  return redis.call('EXISTS', job_prefix .. job.id) == 1 and 'duplicate'
end

-- Run one command that may fail; returns the error's text then.
local function attempt(...)
  local reply = redis.pcall(...)
  return type(reply) == 'table' and reply.err or nil
end

local function enqueue(jobs)
  for _, job in ipairs(jobs) do
    local words, first = job.shape.words, 1
    for p, place in ipairs(job.shape.places) do
      words[place] = ARGV[position + job.own + p - 1]
    end
    for _, last in ipairs(job.shape.ends) do
      local err = attempt(unpack(words, first, last))
      first = last + 1
      if err then
        for _, undo in ipairs(jobs) do
          redis.pcall('LREM', undo.queue, -1, undo.id)
          redis.pcall('DEL', job_prefix .. undo.id)
        end
        return err
      end
    end
  end
end

-- Runs of neighbouring skips for one reason are one entry: "- first last count reason".
local function record_skip(key, skip)
  local first, last, count, reason = unpack(skip)
  local since, before, why =
    string.match(redis.call('LINDEX', key, -1) or '', '^%- (%d+) %d+ (%d+) (%S+)$')
  if why == reason then
    count = math.min(before + count, 10000)
    return attempt('LSET', key, -1, '- ' .. since .. ' ' .. last .. ' ' .. count .. ' ' .. reason)
  end
  return attempt('RPUSH', key, '- ' .. first .. ' ' .. last .. ' ' .. count .. ' ' .. reason)
end

-- The ledger comes after the jobs: once they are in, the server takes writes and the ledger is
-- known to be a list, so only an entry without jobs can still fail here, with nothing to undo.
local function record(entry)
  local key, length = ledger_prefix .. entry.name, 0
  for _, skip in ipairs(entry.skips) do
    local err = record_skip(key, skip)
    if err then return err end
  end
  for _, job in ipairs(entry.jobs) do
    local lag = math.max(now - job.fire, 0)  -- the clock's host may be ahead of this server
    length = redis.call('RPUSH', key, job.mark .. ' ' .. job.fire .. ' ' .. lag)
  end
  if length > ledger_cap then
    redis.call('LTRIM', key, -ledger_cap, -1)
  end
end

local SERVER_WIDE = {OOM = true, MISCONF = true, READONLY = true, NOREPLICAS = true}
local answers = {'done', now}
local markers, due, gone, over = {}, {}, {}, {}

for i, entry in ipairs(entries) do
  local state, revision = states[i], revisions[i] or '0'
  local base, jobs = string.match(state or '', '^(%S+ %S+) ?(.*)$')
  local answer
  if base ~= entry.base or revision ~= entry.revision then
    answer = 'stale ' .. revision .. ' ' .. (state or '')
  else
    local alive
    if entry.overlap == 'skip' and #entry.jobs > 0 then
      alive = living(jobs)
      jobs = table.concat(alive, ' ')
      if #alive > 0 then
        leave_out(entry, function() return 'overlap' end)
      end
    end
    leave_out(entry, duplicate)
    local why = obstacle(entry) or enqueue(entry.jobs) or record(entry)
    if why and #markers == 0 and SERVER_WIDE[string.match(why, '^%-?(%S+)')] then
      return {'error', why}
    end
    if why then
      answer = 'error ' .. why
    else
      answer = alive and #alive > 0 and 'overlap ' .. jobs or 'ok'
      if #entry.jobs > 0 then
        jobs = entry.jobs[#entry.jobs].id
      end
      local since = string.match(base, ' (%S+)$')
      markers[#markers + 1] = entry.name
      markers[#markers + 1] = entry.marker .. ' ' .. since .. (jobs ~= '' and ' ' .. jobs or '')
      if entry.next_fire == 'end' then
        over[#over + 1] = entry.name
        gone[#gone + 1] = entry.name
        redis.call('PEXPIRE', ledger_prefix .. entry.name, 86400000)
      elseif entry.next_fire == '' then
        gone[#gone + 1] = entry.name
      else
        due[#due + 1] = entry.next_fire
        due[#due + 1] = entry.name
      end
    end
  end
  answers[#answers + 1] = answer
end

if #markers > 0 then redis.call('HSET', KEYS[2], unpack(markers)) end
if #due > 0 then redis.call('ZADD', KEYS[4], unpack(due)) end
if #gone > 0 then redis.call('ZREM', KEYS[4], unpack(gone)) end
if #over > 0 then
  for _, key in ipairs({KEYS[2], KEYS[3], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]}) do
    redis.call('HDEL', key, unpack(over))
  end
  redis.call('ZREM', KEYS[10], unpack(over))
  for i, name in ipairs(over) do
    over[i] = KEYS[11] .. ':' .. name
  end
  redis.call('DEL', unpack(over))
end
return answers
