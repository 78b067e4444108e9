--! keys tasks
-- Write the results of calls, or give claims back whose calls were never sent.
--
-- KEYS  1 tasks
-- ARGV  1 owner   2 ms of the owner's lease   3 the configuration's defaults
--       … for each call: id; attempt; result: "ok", "gone", "lost" (its worker had to end before the
--       answer came), "unsent" or another word for a failure;
--       ms that the receiver asks to wait, or ""; ms since the end of the call; a factor for the delay
--       of a retry; the attempt as JSON
-- Returns for each call the state of its task, and when it may be called next or ""; "late" where the
-- call counts no more: its claim ran out and it failed, or another attempt runs; "missing"
-- Sending it again is harmless: owner and attempt are compared. A late success counts, unless another
-- attempt runs.

local WEEK_MS = 7 * 86400000

local owner, lease, now = ARGV[1], tonumber(ARGV[2]), server_ms()
local conf = configuration(ARGV[3])
position = 4
if redis.call('ZSCORE', key('task-dispatchers'), owner) then
  redis.call('ZADD', key('task-dispatchers'), now + lease, owner)
end

local results = {}  -- host → its newest result, and the number of failures since its last success

local function note_host(host, result)
  local note = results[host] or {count = 0}
  results[host] = note
  note.reset = note.reset or result == 'ok'
  note.count = result == 'ok' and 0 or note.count + 1
  note.result = result
end

-- Forget the hosts whose last failure is older than a week, with the first results of a minute.
local function forget_hosts(hosts)
  local minute = redis.call('HGET', key('task-minutes'), 'minute')
  if minute == whole(math.floor(now / 60000)) then return end
  local stored = redis.call('HGETALL', hosts)
  for i = 1, #stored, 2 do
    local last = tonumber(string.match(stored[i + 1], '^%d+ %d+ (%d+) ') or '')
    if not last or last <= now - WEEK_MS then
      redis.call('HDEL', hosts, stored[i])
    end
  end
end

-- Write which hosts only fail.
local function keep_hosts()
  local hosts = key('task-failing')
  forget_hosts(hosts)
  for host, note in pairs(results) do
    local known = not note.reset and redis.call('HGET', hosts, host) or ''
    local count, since = string.match(known, '^(%d+) (%d+) ')
    if note.count == 0 then
      redis.call('HDEL', hosts, host)
    elseif note.reset or count or redis.call('HLEN', hosts) < HOSTS then
      local words = {(count or 0) + note.count, since or whole(now), whole(now), note.result}
      redis.call('HSET', hosts, host, table.concat(words, ' '))
      redis.call('PEXPIRE', hosts, WEEK_MS)
    end
  end
end

local function delay_of(t, wait, factor)
  local _, list = conf('retry_delays')
  local delay, place = 0, 0
  for seconds in string.gmatch(list, '[^,]+') do
    place = place + 1
    delay = tonumber(seconds) or delay
    if place == tonumber(t.failures) then break end
  end
  return math.max(math.floor(delay * 1000 * factor), wait)
end

local function fail(id, t, gone, wait, factor)
  t.failures, t.returns = t.failures + 1, 0
  local retries = tonumber(t.retries) or conf('max_retries')
  if gone or t.failures > retries then
    end_task(id, t, 'stale', now)
    tally_task('stale')
    return
  end
  t.state, t.since, t.batch = 'retrying', '-', '-'
  t.from = whole(now + delay_of(t, wait, factor))
  keep_task(id, t)
  enqueue_task(id, t)
end

-- Write one result. Returns the state of its task.
local function finish(id, attempt, result, wait, ago, factor, line)
  local t = read_task(id)
  if not t then return 'missing' end
  local ended = now - ago
  local ours = t.owner == owner and tonumber(t.attempt) == attempt
  if not ours then return 'late' end
  if is_calling(t) and result == 'lost' then
    lose_claim(id, t, now, line)
    return t.state, t.state ~= 'stale' and t.from
  elseif is_calling(t) then
    release(id, t, ended)
    if result == 'unsent' then
      t.attempt = t.attempt - 1
      back_to_queue(id, t)
      return t.state, t.from
    end
  elseif result == 'ok' and t.state == 'stale' then
    flush()
    redis.call('ZREM', SHELVES.stale, id)
  elseif result == 'ok' and (t.state == 'waiting' or t.state == 'retrying') then
    unqueue_task(id, t)
  else
    return SHELVES[t.state] and t.state or 'late'
  end
  remember_attempt(id, ended, line)
  note_host(t.host, result)
  tally_task('called ' .. result)
  if result == 'ok' then
    end_task(id, t, 'done', now)
  else
    fail(id, t, result == 'gone', wait, factor)
  end
  return t.state, t.state == 'retrying' and t.from
end

local answer, ids = {}, {}
for i = position, #ARGV, 7 do
  ids[#ids + 1] = ARGV[i]
end
read_tasks(ids)
while position <= #ARGV do
  local id, attempt, result, wait = take(), tonumber(take()), take(), tonumber(take()) or 0
  local state, from = finish(id, attempt, result, wait, tonumber(take()), tonumber(take()), take())
  answer[#answer + 1] = state
  answer[#answer + 1] = from or ''
end
keep_claims(now)
keep_hosts()
keep_counts(now)
trim_tasks(conf, now, #ids)
return answer
