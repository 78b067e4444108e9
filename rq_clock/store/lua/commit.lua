--! keys
-- Commit a batch of decisions: enqueue the jobs, move the markers, write the ledger.
--
-- Each schedule of the batch stands alone: it is committed whole or left as it was. Known
-- faults are found before its first write; a failure in the middle is undone.
--
-- KEYS  1 lease   2 markers   3 due
-- ARGV  1 token, or "" for a decision without the lease, before a change that would lose it
--       2 entries a ledger may have, unless the clock has another number   3 revision of "*"
--       4 server's time (ms) from which on it may be committed
--       5 number of templates, then for each the words that many jobs share:
--         number of commands, then the number of words of each; the words of all
--         number of places, then each: which of the words are a job's key
--         number of places, then each: which of the words are a job's own
--         number of queues, then the key of each
--         JSON, an array of: number of schedules, then for each schedule:
--           name
--           base ("<marker> <known since>" that the decision is based on)   revision
--           new base   next fire time (ms; "" for none; "inf" while the pause of all holds it;
--           "end" for a one-off job that is over now: only its ledger and its run stay, the ledger
--           for a day)
--           overlap ("skip" | "allow")   number of its queue
--           number of skips, then for each: first ms, last ms, count, reason
--           number of jobs, then for each: job id, fire time (ms), ledger code, its template
--           and behind these an object: number of a schedule → id of a backfill, since when (ms),
--           its fields and values
--         then for each job, in order: a word for each place of its own
-- Returns {"lost"}                    the token is no longer the lease's; nothing was written
--         {"changed"}                 the revision of "*" moved on; nothing was written
--         {"early"}                   it is earlier: the caller's idea of the time is wrong; nothing
--                                     was written
--         {"error", text}             the server takes no writes at all; nothing was written
--         {"done", now ms, answer…}   one answer a schedule, in order:
--           "ok"                          enqueued and marked
--           "overlap <job id>…"           the marker moved, the fire time is a skip: these still live
--           "stale <revision> <state>"    based on an old state; untouched. The state holds marker
--                                         and last job. A removed schedule has no state, and one
--                                         whose marker was lost.
--           "error <text>"                could not be written; untouched
-- Sending it again is harmless: a decision that was committed is stale.

if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return {'lost'}
end

local argv, call, pcall = ARGV, redis.call, redis.pcall
local cap, clock = ledger_cap(argv[2]), call('TIME')
local now, at = clock[1] * 1000 + math.floor(clock[2] / 1000), 5
if now < tonumber(argv[4]) then return {'early'} end

local function next_words(count)
  at = at + count
  return {unpack(argv, at - count, at - 1)}
end

local function next_numbers(count)
  local numbers = next_words(count)
  for i = 1, count do
    numbers[i] = tonumber(numbers[i])
  end
  return numbers
end

local function next_number()
  at = at + 1
  return tonumber(argv[at - 1])
end

local templates = {}
for t = 1, next_number() do
  local ends, length = next_numbers(next_number()), 0
  for c = 1, #ends do
    length = length + ends[c]
    ends[c] = length
  end
  local template = {ends = ends, words = next_words(length), keys = next_numbers(next_number()),
    places = next_numbers(next_number()), own = {'HSET', ''}}
  for p, place in ipairs(template.places) do
    template.own[1 + 2 * p], template.own[2 + 2 * p] = template.words[place - 1], ''
  end
  templates[t] = template
end
local queues = next_words(next_number())

-- Read what Redis stores of each schedule and job. Jobs are numbered through the batch; `places`
-- has where each begins in the words, `owns` where its own words do.
local words = cjson.decode(argv[at])
local names, starts, ids, keys, places, owns = {}, {}, {}, {}, {}, {}
local own, next_word, count = at + 1, 2, 0
for i = 1, words[1] do
  names[i], starts[i] = words[next_word], next_word
  next_word = next_word + 8 + 4 * words[next_word + 7]
  local first = next_word + 1
  next_word = first + 4 * words[next_word]
  for place = first, next_word - 1, 4 do
    count = count + 1
    ids[count], keys[count] = words[place], 'rq:job:' .. words[place]
    places[count], owns[count] = place, own
    own = own + #templates[words[place + 3]].places
  end
end
local backfills = words[next_word]
local states = call('HMGET', KEYS[2], unpack(names))
names[#names + 1] = '*'
local revisions = call('HMGET', key('revisions'), unpack(names))
if number_of(revisions[#names]) ~= argv[3] then return {'changed'} end
for i, name in ipairs({KEYS[2], KEYS[3]}) do
  local kind = call('TYPE', name).ok
  if kind ~= 'none' and kind ~= (i == 1 and 'hash' or 'zset') then
    return {'error', 'WRONGTYPE ' .. name .. ' is a ' .. kind}
  end
end
local any_exists = #keys > 0 and call('EXISTS', unpack(keys)) > 0

-- Leave out the jobs of a schedule that become skips: all when another one blocks them, else those
-- that exist. A job id names its fire time. One that exists although the marker says otherwise
-- (someone deleted markers, a replica came back old) was enqueued before: a second time is never
-- right.
local function leave_out(entry, blocked)
  local left = {}
  for _, j in ipairs(entry.jobs) do
    local reason = blocked and 'overlap' or call('EXISTS', keys[j]) == 1 and 'duplicate'
    if reason then
      local fire = words[places[j] + 1]
      entry.skips[#entry.skips + 1] = {fire, fire, 1, reason}
    else
      left[#left + 1] = j
    end
  end
  entry.jobs = left
end

-- Run the commands of a template for a job. Returns the fault.
local function write_whole(template, j)
  local common, mine, first = template.words, template.places, 1
  for _, place in ipairs(template.keys) do
    common[place] = keys[j]
  end
  for p = 1, #mine do
    common[mine[p]] = argv[owns[j] + p - 1]
  end
  for _, last in ipairs(template.ends) do
    local fault = attempt(unpack(common, first, last))
    if fault then return fault end
    first = last + 1
  end
end

-- Write the hashes of a schedule's jobs. Most are copies of one before, with fields of their own:
-- that takes half the time. Returns the fault; `undo_entry` then removes the others.
local function write_jobs(entry)
  for _, j in ipairs(entry.jobs) do
    local template, fault = templates[words[places[j] + 3]], nil
    if template.source and pcall('COPY', template.source, keys[j]) == 1 then
      local own = template.own
      own[2] = keys[j]
      for p = 1, #template.places do
        own[2 + 2 * p] = argv[owns[j] + p - 1]
      end
      fault = #own > 2 and attempt(unpack(own))
    else
      fault = write_whole(template, j)
      template.source = not fault and #template.ends == 1 and keys[j] or nil
    end
    if fault then return fault end
  end
end

local ledger_prefix, lines = key('ledger:'), {}

-- Return a job's line in the ledger: most of a batch have the same.
local function line_of(j)
  local fire, code = words[places[j] + 1], words[places[j] + 2]
  local known = lines[fire]
  if not known or known[1] ~= code then
    known = {code, code .. ' ' .. fire .. ' ' .. math.max(now - fire, 0)}
    lines[fire] = known
  end
  return known[2]
end

-- Join skips with the one before them in the ledger that has the same reason: they are one line,
-- "- first last count reason". Returns the fault, and the lines to append.
local function join_skips(entry)
  local last, appended = redis.pcall('LINDEX', entry.ledger, -1) or '', {}
  if type(last) == 'table' then return last.err end
  local joined = last
  for _, skip in ipairs(entry.skips) do
    local before = appended[#appended] or joined
    local first, number, reason = string.match(before, '^%- (%d+) %d+ (%d+) (%S+)$')
    if reason ~= skip[4] then
      appended[#appended + 1] = '- ' .. table.concat(skip, ' ')
    else
      number = math.min(number + skip[3], 10000)
      local line = '- ' .. first .. ' ' .. skip[2] .. ' ' .. number .. ' ' .. reason
      if #appended > 0 then
        appended[#appended] = line
      else
        joined = line
      end
    end
  end
  if joined ~= last then
    entry.replaced = last
    return attempt('LSET', entry.ledger, -1, joined), appended
  end
  return nil, appended
end

-- Enter a schedule's skips and jobs in its ledger. Returns the fault; `undo_entry` then restores it.
local function write_ledger(entry)
  local fault, appended = nil, {}
  if #entry.skips > 0 then
    fault, appended = join_skips(entry)
    if fault then return fault end
  end
  for _, j in ipairs(entry.jobs) do
    appended[#appended + 1] = line_of(j)
  end
  if #appended > 0 then
    local length = pcall('RPUSH', entry.ledger, unpack(appended))
    if type(length) == 'table' then return length.err end
    entry.appended, entry.length = #appended, length
  end
end

-- Remove what was written of a schedule. Its jobs did not exist before.
local function undo_entry(entry)
  for _, j in ipairs(entry.jobs) do
    redis.pcall('DEL', keys[j])
  end
  if entry.appended then
    redis.pcall('LTRIM', entry.ledger, 0, -entry.appended - 1)
  end
  if entry.replaced then
    redis.pcall('LSET', entry.ledger, -1, entry.replaced)
  end
end

-- Return the skips of a schedule, and where its jobs come.
local function read_skips(place)
  local skips, first = {}, place + 8
  for s = 1, words[place + 7] do
    skips[s], first = {unpack(words, first, first + 3)}, first + 4
  end
  return skips, first
end

-- Lower the number of fire times to skip on request by those that were.
local function lower_request(name, skipped)
  local request = call('HGET', key('skips'), name) or ''
  local left = (string.match(request, '"count": (%d+)') or 0) - skipped
  if left > 0 then
    call('HSET', key('skips'), name, (string.gsub(request, '"count": %d+', '"count": ' .. left, 1)))
  else
    call('HDEL', key('skips'), name)
  end
end

local SERVER_WIDE = {OOM = true, MISCONF = true, READONLY = true, NOREPLICAS = true}
local answers, seen, written, pushed, last_job = {'done', now}, {}, {}, {}, 0

for i, name in ipairs(names) do
  if i > words[1] then break end  -- "*"
  local place, state, revision = starts[i], states[i] or '', revisions[i] or '0'
  local skips, first = read_skips(place)
  local jobs = {}
  for j = 1, words[first] do
    last_job = last_job + 1
    jobs[j] = last_job
  end
  local base, before, answer = state, '', 'ok'
  if state ~= words[place + 1] then
    base, before = parse(state)
  end
  if base ~= words[place + 1] or revision ~= words[place + 2] or seen[name] then
    answer = 'stale ' .. revision .. ' ' .. state
  else
    local entry = {place = place, ledger = ledger_prefix .. name, skips = skips, jobs = jobs,
      answer = i + 2, state = '', length = 0}
    if before ~= '' and #jobs > 0 and words[place + 5] == 'skip' then
      before = table.concat(living(before), ' ')
      answer = before == '' and 'ok' or 'overlap ' .. before
    end
    if answer ~= 'ok' or any_exists then
      leave_out(entry, answer ~= 'ok')
    end
    local queue = words[place + 6]
    local fault = #entry.jobs > 0 and queue_fault(queues[queue])
    fault = fault or write_jobs(entry) or write_ledger(entry)
    if fault then
      undo_entry(entry)
      if #written == 0 and SERVER_WIDE[string.match(fault, '^%-?(%S+)')] then
        return {'error', fault}
      end
      answer = 'error ' .. fault
    else
      seen[name], entry.state, written[#written + 1] = true, before, entry
      local queued = pushed[queue] or {}
      for _, j in ipairs(entry.jobs) do
        queued[#queued + 1], entry.state, pushed[queue] = ids[j], ids[j], queued
      end
    end
  end
  answers[i + 2] = answer
end

-- Put the jobs in their queues, of each queue all or none.
local refused, used = {}, {}
for q in pairs(pushed) do
  used[#used + 1] = queues[q]
end
local unknown = #used > 0 and attempt('SADD', 'rq:queues', unpack(used))
for q, jobs in pairs(pushed) do
  refused[q] = unknown or attempt('RPUSH', queues[q], unpack(jobs))
end

local markers, due, gone, over = {}, {}, {}, {}
for _, entry in ipairs(written) do
  local place = entry.place
  local name, next_fire = words[place], words[place + 4]
  local fault = #entry.jobs > 0 and refused[words[place + 6]]
  if fault then
    undo_entry(entry)
    answers[entry.answer] = 'error ' .. fault
  else
    if entry.length > cap then
      call('LTRIM', entry.ledger, -cap, -1)
    end
    for _, skip in ipairs(entry.skips) do
      if skip[4] == 'requested' then lower_request(name, skip[3]) end
    end
    local backfill = backfills[tostring(entry.answer - 2)]
    if backfill then
      start_backfill(unpack(backfill))
    end
    if argv[1] == '' then
      call('PUBLISH', key('news'), name)  -- the change itself may never come
    end
    markers[#markers + 1], markers[#markers + 2] = name, format(words[place + 3], entry.state)
    if next_fire == 'end' then
      over[#over + 1] = name
    elseif next_fire == '' then
      gone[#gone + 1] = name
    else
      due[#due + 1], due[#due + 2] = next_fire, name
    end
  end
end
if #markers > 0 then call('HSET', KEYS[2], unpack(markers)) end
if #due > 0 then call('ZADD', KEYS[3], unpack(due)) end
if #gone > 0 then call('ZREM', KEYS[3], unpack(gone)) end
if #over > 0 then drop(over, 86400000) end
return answers
