--! audit
-- Change schedules at run time: add, edit, remove, pause, resume, skip. All of them or none.
--
-- KEYS  1 definitions
-- ARGV  1 now ms   2 ms to keep a removed schedule's ledger   3 entries the audit may have
--       4 number of words of an entry for the audit, then these
--       … then for each schedule ("*" only to pause all), 8 values; "=" leaves something as it is:
--       name
--       its expected state: "new" | "there" | "either" | its revision; behind that, if nothing may
--       have been decided meanwhile: " <marker> <known since>"
--       definition (JSON), or "" to remove it
--       known since (ms) from now on; behind "- " if its marker goes as well
--       next fire time (ms, or "" for none)
--       pause (JSON, or "" for none)
--       skip (JSON, or "" for none)
--       what a removed schedule leaves undecided: a skip for its ledger, or ""
--       … and the last, as audit.lua takes it
-- Returns {"done", revision…}
--         {"refused", then for each that did not fit: its number, why}, nothing was written;
--           why: exists | missing | declared | stale <its revision>
--
-- An "exists" is none for a schedule that is there with the same definition: adding again is
-- harmless. The new revision makes what the clock has staged for a schedule stale, so a change
-- applies from this instant on.

local now, keep, first = ARGV[1], ARGV[2], 5 + tonumber(ARGV[4])

local names, count = {}, 0
for i = first, #ARGV, 8 do
  count = count + 1
  names[count] = ARGV[i]
end
local definitions = redis.call('HMGET', KEYS[1], unpack(names))
local revisions = redis.call('HMGET', key('revisions'), unpack(names))
local declared = redis.call('SMISMEMBER', key('declared'), unpack(names))
local states = redis.call('HMGET', key('markers'), unpack(names))

local refused, same, grows = {'refused'}, {}, false
for n = 1, count do
  local expected, base = string.match(ARGV[first + n * 8 - 7], '^(%S+) ?(.*)$')
  local definition = ARGV[first + n * 8 - 6]
  local stored, revision, why = definitions[n], number_of(revisions[n]), nil
  grows = grows or definition ~= '=' and definition ~= ''
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
if #refused > 1 then return refused end

-- Pausing and removing work on a full server too: after one write that it takes, it takes the rest.
if not grows then
  redis.call('DEL', key(''))
end

local function put(hash, name, value)
  if value == '' then
    redis.call('HDEL', hash, name)
  elseif value ~= '=' then
    write('HSET', hash, name, value)
  end
end

local function index(zset, name, score)
  if score == '' then
    redis.call('ZREM', zset, name)
  elseif score ~= '=' then
    write('ZADD', zset, score, name)
  end
end

local gone, removed, paused = {}, {}, {}
local answers, news, last = {'done'}, {}, redis.call('INCRBY', key('revision'), count)
for n = 1, count do
  local i = first + n * 8 - 8
  local name, definition, since, fire = names[n], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  if same[n] then
    answers[n + 1] = revisions[n] or '0'
  elseif definition == '' then
    if ARGV[i + 7] ~= '' then
      redis.pcall('RPUSH', key('ledger:' .. name), ARGV[i + 7])
    end
    gone[#gone + 1], removed[name] = name, true
    answers[n + 1] = ''
    news[name] = true
  else
    local revision = string.format('%d', last - count + n)
    if not definitions[n] and name ~= '*' then
      write('HSET', key('markers'), name, '- ' .. string.match(since, '%d+$'))
      redis.call('PERSIST', key('ledger:' .. name))
    elseif string.sub(since, 1, 2) == '- ' then
      keep_state(name, since, select(2, state_of(name)) or '')
    elseif since ~= '=' then
      local base, jobs = state_of(name, prefix, '- 0')
      restart(name, base, jobs, since)
    end
    put(KEYS[1], name, definition)
    put(key('pauses'), name, ARGV[i + 5])
    paused[name] = ARGV[i + 5] ~= '=' or nil
    put(key('skips'), name, ARGV[i + 6])
    index(key('due'), name, fire)
    write('HSET', key('revisions'), name, revision)
    answers[n + 1] = revision
    -- the clock finds a new schedule in time when it is due later
    local near = definitions[n] or fire == '=' or fire == '' or tonumber(fire) < now + 30000
    news[name] = near or nil
  end
end
flush()
drop(gone, keep)
if next(removed) then
  cancel_backfills(removed, keep)
end
if next(paused) then  -- a pause holds backfills, its end lets them go on
  each_backfill(paused, function(_, duty)
    redis.call('ZADD', key('duties'), now, duty)
    news[':duties'] = true
  end)
end
for name in pairs(news) do
  redis.call('PUBLISH', key('news'), name)
end
if first > 5 then
  audit(ARGV[3], unpack(ARGV, 5, first - 1))
end
return answers
