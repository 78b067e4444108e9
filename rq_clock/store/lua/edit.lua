-- Change schedules at run time: add, edit, remove, pause, resume, skip. All of them or none.
--
-- KEYS  1 definitions   2 declared   3 markers   4 revisions   5 pauses   6 skips   7 due
--       8 chores   9 revision (counter)   10 audit   11 news (channel)   12 succeeded
--       13 outcomes   14 failing   15 counters
-- ARGV  1 now ms   2 prefix of the ledger keys   3 ms to keep a removed schedule's ledger
--       4 entries the audit may have   5 number of words of an entry for the audit, then these
--       … number of words of an entry, from here
--       then for each schedule ("*" only to pause all), 8 values; "=" leaves something as it is:
--       name
--       what it has to be: "new" | "there" | "either" | its revision; behind that, if nothing may
--       have been decided meanwhile: " <marker> <known since>"
--       definition (JSON), or "" to remove it
--       known since (ms) from now on
--       next fire time (ms, or "" for none)
--       pause (JSON, or "" for none)
--       skip (JSON, or "" for none)
--       when its pause ends (ms, or "" for never), for the clock to look after
-- Returns {"done", revision…}
--         {"refused", then for each that did not fit: its number, why}, nothing was written;
--           why: exists | missing | declared | stale <its revision>
--
-- A pause begins with the first fire time that it holds, also one that was due before it, and it
-- ends no sooner than with the last that the clock has skipped for it: these are made up for.
-- An "exists" is none for a schedule that is there with the same definition: adding again is
-- harmless. The new revision makes what the clock has staged for a schedule stale, so a change
-- holds from this instant on.

local now, ledger, keep = ARGV[1], ARGV[2], ARGV[3]
local first = 6 + tonumber(ARGV[5])

local names, count = {}, 0
for i = first, #ARGV, 8 do
  count = count + 1
  names[count] = ARGV[i]
end
local definitions = redis.call('HMGET', KEYS[1], unpack(names))
local revisions = redis.call('HMGET', KEYS[4], unpack(names))
local declared = redis.call('SMISMEMBER', KEYS[2], unpack(names))
local states = redis.call('HMGET', KEYS[3], unpack(names))

local refused, same = {'refused'}, {}
for n = 1, count do
  local expected, base = string.match(ARGV[first + n * 8 - 7], '^(%S+) ?(.*)$')
  local definition = ARGV[first + n * 8 - 6]
  local stored, revision, why = definitions[n], revisions[n] or '0', nil
  if expected == 'new' then
    same[n] = stored == definition and declared[n] == 0
    why = stored and not same[n] and 'exists'
  elseif names[n] ~= '*' and not stored and expected ~= 'either' then
    why = 'missing'
  elseif expected ~= 'there' and expected ~= 'either' and expected ~= revision
    or base ~= '' and base ~= string.match(states[n] or '', '^%S+ %S+') then
    why = 'stale ' .. revision
  end
  if declared[n] == 1 and definition ~= '=' then
    why = 'declared'
  end
  if why then
    refused[#refused + 1] = n
    refused[#refused + 1] = why
  end
end
if #refused > 1 then
  return refused
end

-- Writes are gathered into long commands: thousands are added at once.
local gathered, lengths = {}, {}

local function write(command, key, first, second)
  local words, length = gathered[key], lengths[key]
  if not words then
    words, length = {command, key}, 2
    gathered[key] = words
  end
  words[length + 1], words[length + 2] = first, second
  lengths[key] = length + 2
  if length > 4000 then
    redis.call(unpack(words))
    gathered[key] = nil
  end
end

local function put(key, name, value)
  if value == '' then
    redis.call('HDEL', key, name)
  elseif value ~= '=' then
    write('HSET', key, name, value)
  end
end

local function index(key, name, score)
  if score == '' then
    redis.call('ZREM', key, name)
  elseif score ~= '=' then
    write('ZADD', key, score, name)
  end
end

local function restart(name, since)
  local marker, known, jobs =
    string.match(redis.call('HGET', KEYS[3], name) or '- 0', '^(%S+) (%S+)(.*)$')
  if marker ~= '-' and tonumber(marker) > tonumber(since) then
    since = marker  -- decided already, by the rule that held then
  end
  redis.call('HSET', KEYS[3], name, marker .. ' ' .. since .. jobs)
end

local function exact(name, pause, ends, state)
  local since, fire = string.match(pause, '"since": (%d+)'), redis.call('ZSCORE', KEYS[7], name)
  if since and fire and tonumber(fire) < tonumber(since) then
    pause = string.gsub(pause, '"since": %d+', '"since": ' .. fire)
  end
  local marker = string.match(state or '', '^%d+')
  if tonumber(ends) and marker and tonumber(marker) > tonumber(ends) then
    return string.gsub(pause, '"until": %d+', '"until": ' .. marker), marker
  end
  return pause, ends
end

local answers, news, last = {'done'}, {}, redis.call('INCRBY', KEYS[9], count)
for n = 1, count do
  local i = first + n * 8 - 8
  local name, definition, since, fire = names[n], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  if same[n] then
    answers[n + 1] = revisions[n] or '0'
  elseif definition == '' then
    for _, key in ipairs({KEYS[1], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[12], KEYS[13]}) do
      redis.call('HDEL', key, name)
    end
    redis.call('ZREM', KEYS[7], name)
    redis.call('ZREM', KEYS[14], name)
    redis.call('DEL', KEYS[15] .. ':' .. name)
    redis.call('ZREM', KEYS[8], 'pause:' .. name)
    redis.call('PEXPIRE', ledger .. name, keep)
    answers[n + 1] = ''
    news[name] = true
  else
    local revision = string.format('%d', last - count + n)
    if not definitions[n] and name ~= '*' then
      write('HSET', KEYS[3], name, '- ' .. since)
      redis.call('PERSIST', ledger .. name)
    elseif since ~= '=' then
      restart(name, since)
    end
    put(KEYS[1], name, definition)
    local pause, ends = exact(name, ARGV[i + 5], ARGV[i + 7], states[n])
    put(KEYS[5], name, pause)
    put(KEYS[6], name, ARGV[i + 6])
    index(KEYS[7], name, fire)
    index(KEYS[8], 'pause:' .. name, ends)
    news[':chores'] = news[':chores'] or tonumber(ends) and true
    write('HSET', KEYS[4], name, revision)
    answers[n + 1] = revision
    -- what is new and far away, the clock finds in time
    local near = definitions[n] or fire == '=' or fire == '' or tonumber(fire) < now + 30000
    news[name] = near or nil
  end
end
for _, words in pairs(gathered) do
  redis.call(unpack(words))
end
for name in pairs(news) do
  redis.call('PUBLISH', KEYS[11], name)
end
if first > 6 then
  redis.call('XADD', KEYS[10], 'MAXLEN', '~', ARGV[4], '*', unpack(ARGV, 6, first - 1))
end
return answers
