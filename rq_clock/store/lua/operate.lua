-- What an operator does to jobs, whoever made them: requeue, cancel, delete, stop; each job whole or
-- not at all, and with the books of its schedule. Behind turns.lua and outcomes.lua.
--
-- KEYS  1 workers   2 audit. Beside these are used, of the namespace that a run is of, markers,
--       ledger:<schedule>, runs, outcomes, failing and counters
-- ARGV  1 requeue | cancel | delete | stop   2 now ms   3 now as RQ writes it   4 by   5 verb for
--       the audit   6 reason   7 detail for the audit, JSON   8 entries the audit may have
--       9 entries of runs to keep   10 what the ledger says of one that is given up
--       11 the field of counters for such a run   12 names that the audit spells out
--       … then for each job: id; prefix of the keys of its namespace, schedule, fire time (ms) and
--       pattern of its mark in the ledger, or four times "" for what has not the id of a run
-- Returns for each job a word and a detail
--         ok                        what was done: the queue, or the worker that was told to stop
--         missing                   there is no such job
--         state, its status         it is not one to which this can be done
--         twin, job                 another run of the same fire time is queued or running
--         error, text               the key of its queue is no list, or no worker listens
-- What was done to any of them is one entry of the audit.

local verb, now, text = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local ENDED = {failed = true, stopped = true, canceled = true}
local MOST_WATCHED = 100  -- jobs of one schedule that overlap has to look at

local function status_of(id)
  return redis.call('HGET', 'rq:job:' .. id, 'status') or ''
end

-- The queued and running jobs that the clock watches of this schedule; nil when there is no such.
local function watched(job)
  local state = redis.call('HGET', job.prefix .. 'markers', job.schedule)
  if not state then
    return nil
  end
  local base, jobs = string.match(state, '^(%S+ %S+) ?(.*)$')
  local listed, alive = {}, {}
  for id in string.gmatch(jobs, '%S+') do
    listed[#listed + 1] = id
    alive[#alive + 1] = ALIVE[status_of(id)] and id or nil
  end
  return base, listed, alive
end

-- Another job for the same fire time that has not ended.
local function twin(job)
  local _, _, alive = watched(job)
  local start = string.match(job.id, '^(.*)%-[mb]%d+$') or job.id
  for _, id in ipairs(alive or {}) do
    if id ~= job.id and (id == start or string.sub(id, 1, #start + 1) == start .. '-') then
      return id
    end
  end
end

-- Let overlap know that it is alive again: before the one that the clock enqueued last, by which
-- the clock knows its own commit.
local function watch(job)
  local base, listed, alive = watched(job)
  if not base then
    return
  end
  for _, id in ipairs(listed) do
    if id == job.id then
      return
    end
  end
  if #alive < MOST_WATCHED then
    local last = listed[#listed]
    if last and alive[#alive] ~= last then
      alive[#alive + 1] = last
    end
    redis.call('HSET', job.prefix .. 'markers', job.schedule,
      base .. ' ' .. table.concat({job.id, unpack(alive)}, ' '))
  end
end

-- A run is given up before its end: the books say so.
local function give_up(job)
  local prefix = job.prefix
  local attempts = redis.call('HGET', 'rq:job:' .. job.id, 'rq_clock_attempt') or '0'
  local ending = 'stopped ' .. attempts .. ' ' .. now .. ' ' .. now .. ' - ' .. ARGV[10]
  local line = finish(prefix .. 'ledger:' .. job.schedule, job.marks, job.fire, ending)
  redis.pcall('XADD', prefix .. 'runs', 'MAXLEN', '~', ARGV[9], '*', 'schedule', job.schedule,
    'job', job.id, 'entry', line, 'again', '')
  local known = redis.call('HEXISTS', prefix .. 'markers', job.schedule) == 1
  if known then
    remember(prefix .. 'outcomes', prefix .. 'failing', job.schedule, 'stopped', job.fire, now, now)
  end
  tally(prefix .. 'counters', known and job.schedule, ARGV[11], 1)
end

-- Out of wherever a job that has not begun is.
local function take_out(job, status)
  if status == 'queued' then
    redis.call('LREM', 'rq:queue:' .. job.queue, 0, job.id)
  end
  redis.call('ZREM', 'rq:scheduled:' .. job.queue, job.id)
  redis.call('ZREM', 'rq:deferred:' .. job.queue, job.id)
end

local function pass_turn(group)
  if group and group ~= '' then
    free_turns(group)
    pass_on(group)
  end
end

local operations = {}

function operations.requeue(job, status)
  local key, queue = 'rq:job:' .. job.id, 'rq:queue:' .. job.queue
  if not ENDED[status] then
    return 'state', status
  end
  local kind = redis.call('TYPE', queue).ok
  if kind ~= 'none' and kind ~= 'list' then
    return 'error', 'the key ' .. queue .. ' of its queue is a ' .. kind .. ', not a list'
  end
  local other = job.run and twin(job)
  if other then
    return 'twin', other
  end
  redis.call('HSET', key, 'status', 'queued', 'enqueued_at', text, 'started_at', '',
    'ended_at', '', 'worker_name', '')
  redis.call('HDEL', key, 'rq_clock_interruptions')
  redis.call('ZREM', 'rq:failed:' .. job.queue, job.id)
  redis.call('ZREM', 'rq:canceled:' .. job.queue, job.id)
  local ttl = tonumber(redis.call('HGET', key, 'ttl') or '')
  for _, kept in ipairs({key, key .. ':dependents', key .. ':dependencies'}) do
    if ttl and ttl > 0 then
      redis.call('EXPIRE', kept, ttl)
    else
      redis.call('PERSIST', kept)
    end
  end
  redis.call('SADD', 'rq:queues', queue)
  redis.call('RPUSH', queue, job.id)
  if job.run then
    watch(job)
  end
  return 'ok', job.queue
end

function operations.cancel(job, status)
  if not ALIVE[status] or status == 'started' then
    return 'state', status
  end
  local key = 'rq:job:' .. job.id
  redis.call('ZADD', 'rq:canceled:' .. job.queue, math.floor(now / 1000), job.id)
  redis.call('HSET', key, 'status', 'canceled', 'ended_at', text)
  take_out(job, status)
  if job.run then
    give_up(job)
  end
  pass_turn(job.group)
  return 'ok', job.queue
end

function operations.delete(job, status)
  if status == 'started' then
    return 'state', status
  end
  local key = 'rq:job:' .. job.id
  take_out(job, status)
  if ALIVE[status] and job.run then
    give_up(job)
  end
  for _, registry in ipairs({'failed', 'finished', 'canceled'}) do
    redis.call('ZREM', 'rq:' .. registry .. ':' .. job.queue, job.id)
  end
  local of = redis.call('HGET', key, 'group_id')
  if of and of ~= '' then
    redis.call('SREM', 'rq:group:' .. of, job.id)
  end
  redis.call('DEL', key, key .. ':dependents', key .. ':dependencies', 'rq:results:' .. job.id,
    'rq:executions:' .. job.id)
  pass_turn(job.group)
  return 'ok', job.queue
end

function operations.stop(job, status)
  if status ~= 'started' then
    return 'state', status
  end
  local worker = redis.call('HGET', 'rq:job:' .. job.id, 'worker_name') or ''
  local order = cjson.encode({command = 'stop-job', job_id = job.id})
  if redis.call('PUBLISH', 'rq:pubsub:' .. worker, order) == 0 then
    return 'error', 'its worker ' .. worker .. ' does not listen; if it is dead, the job goes back '
      .. 'to its queue in a few seconds'
  end
  return 'ok', worker
end

local answers, done, schedules, named = {}, 0, {}, {}
for i = 13, #ARGV, 5 do
  local id = ARGV[i]
  local job = {id = id, prefix = ARGV[i + 1], schedule = ARGV[i + 2], fire = ARGV[i + 3],
    marks = ARGV[i + 4]}
  local status, queue, group, meta = unpack(redis.call('HMGET', 'rq:job:' .. id, 'status',
    'origin', 'rq_clock_group', 'meta'))
  local word, detail = 'missing', ''
  if queue then
    job.queue, job.group = queue, group
    job.run = job.schedule ~= '' and meta and string.find(meta, 'fire_time', 1, true)
    word, detail = operations[verb](job, status or '')
  end
  if word == 'ok' then
    done = done + 1
    if job.run and not named[job.schedule] then
      named[job.schedule] = true
      schedules[#schedules + 1] = job.schedule
    end
  end
  answers[#answers + 1] = word
  answers[#answers + 1] = detail
end
if done > 0 then
  local said = cjson.decode(ARGV[7])
  if #answers > 2 then
    said.jobs = done
  end
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[8], '*', 'by', ARGV[4], 'verb', ARGV[5],
    'schedules', table.concat(schedules, ' ', 1, math.min(#schedules, tonumber(ARGV[12]))),
    'count', #schedules, 'reason', ARGV[6], 'detail', cjson.encode(said))
end
return answers
