--! keys tasks
-- Claim tasks that are due, for a dispatcher to call: in order of class (priority, then never-failed
-- before failed), instant and id; as many as the throttle and the limits of their hosts allow. Before,
-- claims that ran out go back to where they were.
--
-- KEYS  1 tasks
-- ARGV  1 owner   2 limit   3 ms of the owner's lease   4 the configuration's defaults
-- Returns {"gone"}  the owner is no dispatcher any more: another one may have its place
--         {"ok", now, when to claim again or "", for each task its id, record, details or "" and ms
--         for the call}
-- Sending it again after a lost reply claims others; what the lost one claimed runs out by itself.

local SOME = 25  -- of claims that ran out, and of hosts to look at again
local STEPS = 200  -- tasks that may be put aside, in one go
local BYTES = 1000000  -- of payloads and headers, beyond which a claim takes no more
local GRACE_MS = 30000  -- beyond a call's timeout, until its claim runs out
local HOST_BURST_MS = 250  -- of a host's rate, that may be called at once
local LATE = {100, 500, 1000, 5000, 30000, 60000, 300000, 3600000}

local owner, limit, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local conf, now = configuration(ARGV[4]), server_ms()
if not redis.call('ZSCORE', key('task-dispatchers'), owner) then return {'gone'} end
redis.call('ZADD', key('task-dispatchers'), now + lease, owner)

-- ---- claims that ran out ----

local ran_out = redis.call('ZRANGEBYSCORE', key('task-claims'), '-inf', now, 'LIMIT', 0, SOME)
read_tasks(ran_out)
for _, id in ipairs(ran_out) do
  local t = read_task(id)
  if not t or not is_calling(t) then
    redis.call('ZREM', key('task-claims'), id)
  else
    local error = 'its worker stored no result in time; it may have died'
    local lost = {attempt = tonumber(t.attempt), result = 'lost', error = error}
    lose_claim(id, t, now, cjson.encode(lost))
  end
end
keep_claims(now)

local looks = redis.call('ZRANGEBYSCORE', key('task-limited'), '-inf', now, 'LIMIT', 0, SOME)
for _, host in ipairs(looks) do
  open_host(host)
end
trim_tasks(conf, now, 20)

-- ---- the throttle ----

local _, mode = conf('mode')
local gap = conf('base_interval_ms') / conf('select_size')  -- between two calls at a steady rate
local allowed, opens, batch, fresh = allowance(conf, now, limit)

-- Let the throttle know of the claims; `more` tells that their number was limited.
local function account(claimed, timeout, more)
  local state = read_throttle()
  if mode == 'steady' then
    state.tat = state.tat + claimed * gap
  elseif mode ~= 'off' and claimed > 0 then
    if fresh then
      state.batch, state.left, state.out = batch, conf('select_size'), 0
    end
    state.out = state.out + claimed
    state.left = more and math.max(state.left - claimed, 0) or 0
    state['until'] = math.max(state['until'] or 0, now + timeout + 1000)
  end
end

-- ---- limits of hosts ----

local concurrency, rate = conf('host_concurrency'), conf('host_rate')
local host_gap = rate and 1000 / rate
local host_burst = rate and math.max(host_gap, HOST_BURST_MS)
if rate then
  redis.call('ZREMRANGEBYSCORE', key('task-pace'), '-inf', now)
end

-- Return when a host that is at its limit may be called again; nil if it may be called now.
local function opens_at(host)
  if concurrency and calls_of(host) >= concurrency then return now + LOOK_MS end
  if rate then
    local next = math.max(tonumber(redis.call('ZSCORE', key('task-pace'), host) or '') or 0, now)
    local opens = next + host_gap - host_burst
    if opens > now then return math.min(math.ceil(opens), now + LOOK_MS) end
  end
end

-- ---- claiming ----

local tasks, timeouts, claimed, longest, bytes = {}, {}, 0, 0, 0
local rooms = redis.call('ZCARD', key('task-open'))

local function claim(id, t)
  local timeout = tonumber(t.timeout) or conf('http_callback_timeout_ms')
  if t.state == 'waiting' and tonumber(t.attempt) == 0 then
    local late, bucket = now - t.from, '+Inf'
    for i = #LATE, 1, -1 do
      bucket = late <= LATE[i] and LATE[i] or bucket
    end
    tally_task('late ' .. bucket)
    tally_task('late ms', math.max(late, 0))
  end
  t.state, t.attempt = 'calling-' .. t.state, t.attempt + 1
  t.since, t.owner, t.batch = whole(now), owner, batch and whole(batch) or '-'
  keep_task(id, t)
  write('ZADD', key('task-claims'), whole(now + timeout + GRACE_MS), id)
  calls[t.host] = calls_of(t.host) + 1
  if rate then
    local next = math.max(tonumber(redis.call('ZSCORE', key('task-pace'), t.host) or '') or 0, now)
    redis.call('ZADD', key('task-pace'), next + host_gap, t.host)
  end
  bytes = bytes + redis.call('HSTRLEN', key('task-details'), id)
  claimed, longest = claimed + 1, math.max(longest, timeout)
  tasks[claimed], timeouts[claimed] = id, timeout
end

local class, heads, at = 1, {}, 1

-- Return the first task of the queues that is due.
local function first_due(count)
  while class <= 6 do
    if at > #heads then
      flush()  -- what was removed is not found again
      local queue = key('task-queue:' .. class)
      heads, at = redis.call('ZRANGEBYSCORE', queue, '-inf', now, 'LIMIT', 0, count), 1
      read_tasks(heads)
      if #heads == 0 then
        class = class + 1
      end
    end
    if heads[at] then
      local id = heads[at]
      local t = read_task(id)
      if t and not is_calling(t) and not SHELVES[t.state] then return id, t end
      remove('ZREM', key('task-queue:' .. class), id)  -- its record is lost
      at = at + 1
    end
  end
end

-- Claim the first task of a room; put its host among the limited ones when it is at its limit.
local function claim_from_room(member)
  local order, host = string.match(member, '^(%S+ %S+) (%S+)$')
  if not order then
    redis.call('ZREM', key('task-open'), member)
    return
  end
  local id = string.match(order, ' (%S+)$')
  local t, opens = read_task(id), opens_at(host)
  local waits = t and not is_calling(t) and not SHELVES[t.state]
  if opens and waits then
    redis.call('ZREM', key('task-open'), member)
    redis.call('ZADD', key('task-limited'), opens, host)
  else
    leave_room(order, host)
    if waits then
      claim(id, t)
    end
  end
end

local steps = 0
while claimed < allowed and steps < allowed + STEPS and bytes < BYTES do
  steps = steps + 1
  local id, t = first_due(math.min(allowed - claimed + 10, 100))
  local member = rooms > 0 and redis.call('ZRANGE', key('task-open'), 0, 0)[1]
  if not id and not member then break end
  if member and (not id or member < order_of(id, t)) then
    claim_from_room(member)
    rooms = redis.call('ZCARD', key('task-open'))
  else
    at = at + 1
    remove('ZREM', key('task-queue:' .. class), id)
    local limited = opens_at(t.host)
    if limited then
      enter_room(id, t, limited)
    else
      claim(id, t)
    end
  end
end

local stopped = claimed < allowed and (steps == allowed + STEPS or bytes >= BYTES)
local again
if stopped or claimed == limit then
  account(claimed, longest, true)
  again = now
elseif claimed < allowed then
  account(claimed, longest, false)
  again = next_due(now)
else
  account(claimed, longest, true)
  _, opens = allowance(conf, now, limit)
  again = next_due(now)
  again = again and math.max(again, opens)
end
keep_claims(now)
keep_counts(now)

local answer = {'ok', whole(now), again and whole(again) or ''}
local details = claimed > 0 and redis.call('HMGET', key('task-details'), unpack(tasks))
for i, id in ipairs(tasks) do
  for _, word in ipairs({id, record_of(known[id]), details[i] or '', timeouts[i]}) do
    answer[#answer + 1] = word
  end
end
return answer
