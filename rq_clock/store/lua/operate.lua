--! audit turns outcomes
-- Requeue, cancel, delete or stop jobs for an operator, of schedules and others. Each job is changed
-- whole or not at all, with the records of its schedule.
--
-- KEYS  1 workers. The records are in the namespace of the run.
-- ARGV  1 requeue | cancel | delete | stop   2 now ms   3 now as RQ writes it   4 by   5 verb for
--       the audit   6 reason   7 detail for the audit, JSON   8 entries the audit may have
--       9 entries of runs to keep   10 the error of a run that is given up
--       11 the field of counters for such a run   12 names that the audit spells out
--       … then for each job: id; prefix of the keys of its namespace, schedule, fire time (ms) and
--       pattern of its code in the ledger, or four times "" for a job with another id
-- Returns for each job a word and a detail
--         ok                        done; the queue, or the worker that has to stop
--         missing                   there is no such job
--         state, its status         this cannot be done in its state
--         twin, job                 another run of the same fire time is queued or running
--         error, text               the key of its queue is no list, or no worker listens
-- All changes are one entry of the audit.

local verb, now, text = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local ENDED = {failed = true, stopped = true, canceled = true}
local WATCHED_LIMIT = 100  -- jobs of one schedule that overlap has to look at

-- Let overlap look at a job that lives again.
local function watch(job)
  local base, jobs = state_of(job.schedule, job.prefix)
  if not base or string.find(' ' .. jobs .. ' ', ' ' .. job.id .. ' ', 1, true) then
    return
  end
  local alive = living(jobs)
  if #alive < WATCHED_LIMIT then
    keep_state(job.schedule, base, add_job(jobs, job.id, alive), job.prefix)
  end
end

-- Record that a run is given up before its end.
local function give_up(job)
  local of, schedule = job.prefix, job.schedule
  local attempts = redis.call('HGET', 'rq:job:' .. job.id, 'rq_clock_attempt') or '0'
  local ending = 'stopped ' .. attempts .. ' ' .. now .. ' ' .. now .. ' - ' .. ARGV[10]
  local known = finish(job, ending, '', ARGV[9])
  if known then
    remember(schedule, 'stopped', job.fire, now, now, of)
  end
  tally(known and schedule, ARGV[11], 1, of)
end

-- Remove a job that has not begun from wherever it waits.
local function take_out(job, status)
  if status == 'queued' then
    redis.call('LREM', 'rq:queue:' .. job.queue, 0, job.id)
  end
  redis.call('ZREM', 'rq:scheduled:' .. job.queue, job.id)
  redis.call('ZREM', 'rq:deferred:' .. job.queue, job.id)
end

local operations = {}

function operations.requeue(job, status)
  local hash, queue = 'rq:job:' .. job.id, 'rq:queue:' .. job.queue
  if not ENDED[status] then return 'state', status end
  local fault = queue_fault(queue)
  if fault then return 'error', fault end
  local jobs = job.run and select(2, state_of(job.schedule, job.prefix))
  local other = jobs and twin(job.id, living(jobs))
  if other then return 'twin', other end
  redis.call('HSET', hash, 'status', 'queued', 'enqueued_at', text, 'started_at', '',
    'ended_at', '', 'worker_name', '')
  redis.call('HDEL', hash, 'rq_clock_interruptions', 'rq_clock_deaths')
  redis.call('ZREM', 'rq:failed:' .. job.queue, job.id)
  redis.call('ZREM', 'rq:canceled:' .. job.queue, job.id)
  local ttl = tonumber(redis.call('HGET', hash, 'ttl') or '')
  for _, kept in ipairs({hash, hash .. ':dependents', 'rq:job::' .. job.id .. ':dependencies'}) do
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
  if not LIVE[status] or status == 'started' then return 'state', status end
  redis.call('ZADD', 'rq:canceled:' .. job.queue, math.floor(now / 1000), job.id)
  redis.call('HSET', 'rq:job:' .. job.id, 'status', 'canceled', 'ended_at', text)
  redis.pcall('HINCRBY', 'rq:job:' .. job.id, 'rq_clock_ends', 1)  -- others may have written it
  take_out(job, status)
  if job.run then
    give_up(job)
  end
  pass_turn(job.group)
  return 'ok', job.queue
end

function operations.delete(job, status)
  if status == 'started' then return 'state', status end
  take_out(job, status)
  if LIVE[status] and job.run then
    give_up(job)
  end
  local of = redis.call('HGET', 'rq:job:' .. job.id, 'group_id')
  if of and of ~= '' then
    redis.call('SREM', 'rq:group:' .. of, job.id)
  end
  erase(job.id, job.queue, job.run and job.prefix)
  pass_turn(job.group)
  return 'ok', job.queue
end

function operations.stop(job, status)
  if status ~= 'started' then return 'state', status end
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
    codes = ARGV[i + 4]}
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
  local detail = cjson.decode(ARGV[7])
  if #answers > 2 then
    detail.jobs = done
  end
  audit(ARGV[8], 'by', ARGV[4], 'verb', ARGV[5],
    'schedules', table.concat(schedules, ' ', 1, math.min(#schedules, tonumber(ARGV[12]))),
    'count', #schedules, 'reason', ARGV[6], 'detail', cjson.encode(detail))
end
return answers
