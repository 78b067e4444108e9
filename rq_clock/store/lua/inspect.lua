--! keys
-- Read all that RQ and the workers store about one job.
--
-- KEYS  1 runs
-- ARGV  1 job   2 instant (ms) from which on its attempts are looked for, or "" for not   3 limit
--       of entries of `runs` to look at   4 longest text   5 largest result or trace, bytes
-- Returns {fields, results, dependents, how many, attempts, due, seconds to live}
--         fields      name, value, … of its hash, without pickled ones; meta is "run" if it names
--                     a fire time; empty when there is no such job
--         results     {id, fields}, the newest first; one that is too large is "…"
--         dependents  the first few jobs that depend on it
--         attempts    {id, fields} of `runs`, oldest first
--         due         when RQ queues it, epoch seconds, or ""
-- Nothing is written.

local id, longest, largest = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5])
local key = 'rq:job:' .. id
local FIELDS = {'status', 'origin', 'description', 'created_at', 'enqueued_at', 'started_at',
  'ended_at', 'last_heartbeat', 'worker_name', 'timeout', 'result_ttl', 'failure_ttl', 'ttl',
  'retries_left', 'retry_intervals', 'rq_clock_attempt', 'rq_clock_interruptions',
  'rq_clock_group', 'rq_clock_group_limit', 'dependency_ids', 'meta'}

local fields = {}
if redis.call('TYPE', key).ok == 'hash' then
  for i, value in ipairs(redis.call('HMGET', key, unpack(FIELDS))) do
    if FIELDS[i] == 'meta' then
      value = value and string.find(value, 'fire_time', 1, true) and 'run' or ''
    end
    fields[2 * i - 1], fields[2 * i] = FIELDS[i], string.sub(value or '', 1, longest)
  end
end

local results = read('XREVRANGE', 'rq:results:' .. id, '+', '-', 'COUNT', 10)
for _, result in ipairs(results) do
  for w = 2, #result[2], 2 do
    result[2][w] = #result[2][w] <= largest and result[2][w] or '…'
  end
end

local attempts = {}
if ARGV[2] ~= '' then
  local first, left = ARGV[2], tonumber(ARGV[3])
  while left > 0 do
    local chunk = redis.call('XRANGE', KEYS[1], first, '+', 'COUNT', math.min(left, 500))
    for _, attempt in ipairs(chunk) do
      for w = 1, #attempt[2], 2 do
        if attempt[2][w] == 'job' and attempt[2][w + 1] == id then
          attempts[#attempts + 1] = attempt
        end
      end
      first = '(' .. attempt[1]
    end
    left = #chunk == 500 and left - 500 or 0
  end
end

local origin = read('HMGET', key, 'origin')[1] or ''
local dependents = read('SRANDMEMBER', key .. ':dependents', 20)
local due = redis.pcall('ZSCORE', 'rq:scheduled:' .. origin, id)
return {fields, results, dependents,
  #dependents > 0 and redis.call('SCARD', key .. ':dependents') or 0, attempts,
  type(due) == 'string' and due or '', redis.call('TTL', key)}
