--! audit tasks
-- Cancel, retry or delete tasks for an operator. Each is changed whole or not at all.
--
-- KEYS  1 tasks
-- ARGV  1 cancel | retry | delete   2 entries the audit may have   3 by   4 verb for the audit
--       5 reason   6 detail for the audit, JSON   7 the configuration's defaults
--       … ids
--       … and the last, as audit.lua takes it
-- Returns for each task a word and a detail
--         ok               done
--         missing          there is no such task
--         state, its state this cannot be done in its state
--         twin, id         another task with its dedup key lives
-- All changes are one entry of the audit. Before tasks are canceled, as many ended ones that are beyond
-- what is kept are forgotten.

local verb, now = ARGV[1], server_ms()

local function take_out(id, t)
  if SHELVES[t.state] then
    flush()
    redis.call('ZREM', SHELVES[t.state], id)
  else
    unqueue_task(id, t)
  end
end

local operations = {}

function operations.cancel(id, t)
  if SHELVES[t.state] then return 'state', t.state end
  take_out(id, t)
  end_task(id, t, 'canceled', now)
  return 'ok', ''
end

function operations.delete(id, t)
  take_out(id, t)
  erase_tasks({id})
  return 'ok', ''
end

function operations.retry(id, t)
  if t.state == 'waiting' or t.state == 'done' then return 'state', t.state end
  local name = redis.call('HGET', key('task-keys'), id)
  local twin = name and redis.call('HGET', key('task-dedup'), name)
  local other = twin and twin ~= id and read_task(twin)
  if other and not SHELVES[other.state] then return 'twin', 'task_' .. twin end
  take_out(id, t)
  if name then
    redis.call('HSET', key('task-dedup'), name, id)
  end
  local called = tonumber(t.attempt) > 0
  t.state, t.failures, t.returns, t.since = called and 'retrying' or 'waiting', 0, 0, '-'
  t.from = called and whole(now) or whole(math.max(tonumber(t.execute) or 0, now))
  keep_task(id, t)
  enqueue_task(id, t)
  return 'ok', ''
end

-- When Redis is full it refuses this, and not a removal: nothing may be half-done.
redis.call('HINCRBY', key('task-counters'), 'added', 0)

local answers, done = {}, 0
if verb == 'cancel' then
  trim_tasks(configuration(ARGV[7]), now, #ARGV - 7)
end
read_tasks({unpack(ARGV, 8)})
local first = first_queued()
for i = 8, #ARGV do
  local t = read_task(ARGV[i])
  local word, detail = 'missing', ''
  if t and is_calling(t) then
    word, detail = 'state', 'calling'
  elseif t then
    word, detail = operations[verb](ARGV[i], t)
  end
  done = done + (word == 'ok' and 1 or 0)
  answers[#answers + 1] = word
  answers[#answers + 1] = detail
end
flush()
if done > 0 then
  local detail = cjson.decode(ARGV[6])
  detail.tasks = done
  audit(ARGV[2], 'by', ARGV[3], 'verb', ARGV[4], 'schedules', '', 'count', done, 'reason', ARGV[5],
    'detail', cjson.encode(detail))
  if verb == 'retry' and not (first and first <= now) then
    redis.call('PUBLISH', key('news'), ':callbacks')
  end
end
return answers
