--! keys
-- A page of RQ's jobs in one state, of one queue or of all.
--
-- KEYS  1 rq:queues
-- ARGV  1 where: queue, wip, scheduled, deferred, failed, finished or canceled   2 queue, or "" for
--       all   3 "up" or "down", by score   4 score, or place in its queue, to go on from, or ""
--       5 the entry that has it, or the queue   6 limit of jobs   7 of queues   8 longest text
-- Returns {now in seconds, microseconds, how many there are in all, jobs}; one more than the
--         limit when there are others. A job is {score or place, entry, queue, its fields},
--         the fields in the order below, "" for one that it has not
-- Nothing is written.

local FIELDS = {'status', 'description', 'created_at', 'enqueued_at', 'started_at', 'ended_at',
  'worker_name', 'retries_left', 'rq_clock_attempt', 'meta'}
local place, only, down, from, last = ARGV[1], ARGV[2], ARGV[3] == 'down', ARGV[4], ARGV[5]
local cap, longest, CHUNK = tonumber(ARGV[6]), tonumber(ARGV[8]), 50

local names = {only}
if only == '' then
  names = {}
  local _, queues = some_members(KEYS[1], '0', ARGV[7])
  for _, key in ipairs(queues) do
    names[#names + 1] = string.sub(key, #'rq:queue:' + 1)
  end
  table.sort(names)
end

local function before(score, entry, other, beside)
  if score ~= other then return (score > other) == down end
  return (entry > beside) == down and entry ~= beside
end

local found, total = {}, 0

local function of_queue(name, key)
  local start = name == last and tonumber(from) or 0
  local room = cap - #found
  if name >= last and room >= 0 then
    for i, id in ipairs(redis.call('LRANGE', key, start, start + room)) do
      found[#found + 1] = {start + i - 1, id, name}
    end
  end
end

local command = down and 'ZREVRANGEBYSCORE' or 'ZRANGEBYSCORE'
local low = from ~= '' and from or down and '+inf' or '-inf'
local limit = down and '-inf' or '+inf'

-- Go on to the next entry of a registry, which is read in portions from where the page before has
-- ended; it has none at the end.
local function advance(s)
  repeat
    if s.at > #s.chunk then
      if s.ended then
        s.head = nil
        return
      end
      s.chunk = redis.call(command, s.key, low, limit, 'WITHSCORES', 'LIMIT', s.start, CHUNK)
      s.start, s.at, s.ended = s.start + CHUNK, 1, #s.chunk < 2 * CHUNK
    end
    s.head, s.score = s.chunk[s.at], tonumber(s.chunk[s.at + 1])
    s.at = s.at + 2
  until s.head and (from == '' or before(tonumber(from), last, s.score, s.head))
end

-- Registries by their next entries, the first of all at the end.
local sorted = {}

local function sort_in(s)
  local low_end, high_end = 1, #sorted + 1
  while low_end < high_end do
    local middle = math.floor((low_end + high_end) / 2)
    if before(s.score, s.head, sorted[middle].score, sorted[middle].head) then
      low_end = middle + 1
    else
      high_end = middle
    end
  end
  table.insert(sorted, low_end, s)
end

for i = 1, math.min(#names, tonumber(ARGV[7])) do
  local key = 'rq:' .. place .. ':' .. names[i]
  local size = redis.pcall(place == 'queue' and 'LLEN' or 'ZCARD', key)
  if type(size) == 'number' and size > 0 then  -- else the key is something else
    total = total + size
    if place == 'queue' then
      of_queue(names[i], key)
    else
      local s = {name = names[i], key = key, start = 0, chunk = {}, at = 1}
      advance(s)
      if s.head then
        sort_in(s)
      end
    end
  end
end
while #sorted > 0 and #found <= cap do
  local s = table.remove(sorted)
  found[#found + 1] = {s.chunk[s.at - 1], s.head, s.name}
  advance(s)
  if s.head then
    sort_in(s)
  end
end

local jobs = {}
for i = 1, math.min(#found, cap + 1) do
  local entry = found[i]
  local id = place == 'wip' and string.match(entry[2], '^(.*):[^:]*$') or entry[2]
  local fields = read('HMGET', 'rq:job:' .. id, unpack(FIELDS))
  for f = 1, #FIELDS do
    fields[f] = string.sub(fields[f] or '', 1, longest)
  end
  local meta = fields[#FIELDS]
  fields[#FIELDS] = string.find(meta, 'fire_time', 1, true) and 'run' or ''
  local trace = ''
  for _, result in ipairs(read('XREVRANGE', 'rq:results:' .. id, '+', '-', 'COUNT', 1)) do
    for w = 1, #result[2], 2 do
      if result[2][w] == 'exc_string' and #result[2][w + 1] <= 64 * 1024 then
        trace = result[2][w + 1]
      end
    end
  end
  fields[#fields + 1] = trace
  entry[2], entry[4], entry[5] = id, fields, entry[2]
  jobs[i] = entry
end
local now = redis.call('TIME')
return {now[1], now[2], total, jobs}
