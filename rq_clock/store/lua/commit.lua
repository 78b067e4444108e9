--! keys
-- Commit a batch of decisions: enqueue the jobs, move the markers, write the ledger.
--
-- Each schedule of the batch stands alone: it is committed whole or left as it was. Known
-- faults are found before its first write; a failure in the middle is undone.
--
-- KEYS  1 lease   2 markers   3 due
-- ARGV  1 token, or "" for a decision without the lease, before a change that would lose it
--       2 entries a ledger may have, unless the clock has another number   3 revision of "*"
--       4 ms that a fire time may lie ahead
--       5 number of shapes, then for each the words that the commands of many jobs share:
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
--           job id   fire time (ms)   ledger code   key of its queue   its shape
--         then for each job, in order: a word for each place of its shape
-- Returns {"lost"}                    the token is no longer the lease's; nothing was written
--         {"changed"}                 the revision of "*" moved on; nothing was written
--         {"early"}                   a fire time lies further ahead: the caller's idea of the time is
--                                     wrong; nothing was written
--         {"error", text}             the server takes no writes at all; nothing was written
--         {"done", now ms, answer…}   one answer a schedule, in order:
--           "ok"                          enqueued and marked
--           "overlap <job id>…"           the marker moved, the fire time is a skip: these still live
--           "stale <revision> <state>"    based on an old state; untouched. The state holds marker
--                                         and last job, so an earlier success whose reply was lost
--                                         is recognised as one. A removed schedule has no state.
--           "error <text>"                could not be written; untouched
-- Sending it again is harmless: a decision that was committed is stale.

if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return {'lost'}
end

local cap, clock = ledger_cap(ARGV[2]), redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
position = 5

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

-- Read the batch's words, and what Redis stores of each schedule.
local entries, names, own = {}, {}, 0
local latest = now + ARGV[4]
for i = 1, tonumber(take()) do
  local entry = {name = take(), base = take(), revision = take(), marker = take(),
    next_fire = take(), overlap = take(), skips = {}, jobs = {}}
  for s = 1, tonumber(take()) do
    entry.skips[s] = {take(), take(), take(), take()}
  end
  for j = 1, tonumber(take()) do
    local job = {id = take(), fire = take(), code = take(), queue = take(),
      shape = shapes[tonumber(take())], own = own}
    own = own + #job.shape.places
    entry.jobs[j] = job
  end
  if #entry.jobs + #entry.skips > 0 and tonumber(entry.marker) > latest then return {'early'} end
  entries[i], names[i] = entry, entry.name
end
local states = redis.call('HMGET', KEYS[2], unpack(names))
names[#names + 1] = '*'
local revisions = redis.call('HMGET', key('revisions'), unpack(names))
if (revisions[#names] or '0') ~= ARGV[3] then return {'changed'} end
for i, name in ipairs({KEYS[2], KEYS[3]}) do
  local kind = redis.call('TYPE', name).ok
  if kind ~= 'none' and kind ~= (i == 1 and 'hash' or 'zset') then
    return {'error', 'WRONGTYPE ' .. name .. ' is a ' .. kind}
  end
end

-- Return what would make a write of this schedule fail, before the first one.
local function obstacle(entry)
  local fault = attempt('LLEN', entry.ledger)
  fault = fault and 'its ledger: ' .. fault
  for _, job in ipairs(entry.jobs) do
    fault = fault or queue_fault(job.queue)
  end
  return fault
end

-- Leave out jobs for which `reason_of` has a reason: their fire times become skips.
local function leave_out(entry, reason_of)
  local left = {}
  for _, job in ipairs(entry.jobs) do
    local reason = reason_of(job)
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
  return redis.call('EXISTS', 'rq:job:' .. job.id) == 1 and 'duplicate'
end

local function enqueue_all(jobs)
  for _, job in ipairs(jobs) do
    local words, first = job.shape.words, 1
    for p, place in ipairs(job.shape.places) do
      words[place] = ARGV[position + job.own + p - 1]
    end
    for _, last in ipairs(job.shape.ends) do
      local err = attempt(unpack(words, first, last))
      first = last + 1
      if err then
        for _, written in ipairs(jobs) do
          undo(written.id, written.queue)
        end
        return err
      end
    end
  end
end

-- Runs of neighbouring skips for one reason are one entry: "- first last count reason".
local function record_skip(ledger, skip)
  local first, last, count, reason = unpack(skip)
  local since, before, why =
    string.match(redis.call('LINDEX', ledger, -1) or '', '^%- (%d+) %d+ (%d+) (%S+)$')
  if why == reason then
    count = math.min(before + count, 10000)
    return attempt('LSET', ledger, -1, '- ' .. since .. ' ' .. last .. ' ' .. count .. ' ' .. reason)
  end
  return append(ledger, '- ' .. first .. ' ' .. last .. ' ' .. count .. ' ' .. reason, cap)
end

-- The ledger comes after the jobs: once they are in, the server takes writes and the ledger is
-- known to be a list, so only an entry without jobs can still fail here, with nothing to undo.
local function record_all(entry)
  for _, skip in ipairs(entry.skips) do
    local err = record_skip(entry.ledger, skip)
    if err then return err end
  end
  for _, job in ipairs(entry.jobs) do
    record(entry.ledger, job.code, job.fire, now, cap)
  end
end

local SERVER_WIDE = {OOM = true, MISCONF = true, READONLY = true, NOREPLICAS = true}
local answers = {'done', now}
local markers, due, gone, over = {}, {}, {}, {}

for i, entry in ipairs(entries) do
  local base, jobs = parse(states[i])
  local revision, answer = revisions[i] or '0'
  if base ~= entry.base or revision ~= entry.revision then
    answer = 'stale ' .. revision .. ' ' .. (states[i] or '')
  else
    local overlap
    if entry.overlap == 'skip' and #entry.jobs > 0 then
      jobs = table.concat(living(jobs), ' ')
      if jobs ~= '' then
        overlap = 'overlap ' .. jobs
        leave_out(entry, function() return 'overlap' end)
      end
    end
    leave_out(entry, duplicate)
    entry.ledger = key('ledger:' .. entry.name)
    local why = obstacle(entry) or enqueue_all(entry.jobs) or record_all(entry)
    if why and #markers == 0 and SERVER_WIDE[string.match(why, '^%-?(%S+)')] then
      return {'error', why}
    end
    if why then
      answer = 'error ' .. why
    else
      answer = overlap or 'ok'
      if #entry.jobs > 0 then
        jobs = entry.jobs[#entry.jobs].id
      end
      markers[#markers + 1] = entry.name
      markers[#markers + 1] = format(entry.marker .. string.match(base, ' %S+$'), jobs)
      if entry.next_fire == 'end' then
        over[#over + 1] = entry.name
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
if #due > 0 then redis.call('ZADD', KEYS[3], unpack(due)) end
if #gone > 0 then redis.call('ZREM', KEYS[3], unpack(gone)) end
if #over > 0 then drop(over, 86400000) end
return answers
