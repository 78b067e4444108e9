--! keys turns outcomes
-- End an execution: RQ's commands for how it ended, and the run's record, in one step.
--
-- Its worker does it, or the process that found the worker dead. Only one of them can: the
-- execution ends here, and the other one is refused.
--
-- KEYS  1 workers   2 runs, of the namespace of its schedule
-- ARGV  1 worker
--       2 "own": as the worker, which goes on   3 the execution
--         "dead": in its place                  3 its value in workers, as it was silent
--       4 number of its dependents that the commands deal with, then each; -1: it goes on
--       … schedule, or "" for a job of none   fire time, ms   pattern of its code in the ledger
--         how it ended, as the ledger has it   "1" when it succeeded   runs to keep
--         failed jobs of the schedule to keep; 0 when this is none, or has a failure_ttl
--         where the job goes on: "front", "queue", "later", or "" when that was the end of it
--       … number of counts, then for each its field and how much is added to it
--       … number of commands, then for each the number of its words and the words
-- Returns {"ended"}       also when it had ended before and the reply was lost
--         {"gone"}        the worker was counted as dead, or has shown a sign of life: not ours
--         {"refused"}     it was deleted or cleaned away: only the place is freed
--         {"dependents"}  jobs came to depend on it in between; nothing was written
--         {"error", text}       the server refused a command; the commands before it stay written

local slot = redis.call('HGET', KEYS[1], ARGV[1])
local dead = ARGV[2] == 'dead'
if not slot or (dead and slot ~= ARGV[3]) then return {'gone'} end
local execution, id, queue = string.match(slot, '^%d+ (%S+) (%S+) (.+)$')
if not dead and execution ~= ARGV[3] then
  return {'ended'}  -- its own work: only the worker itself, or its death, frees its place
end

-- The first write is one that a full server takes too; then it takes the rest, and the end makes
-- room.
local function leave()
  if execution then
    redis.call('ZREM', 'rq:wip:' .. queue, id .. ':' .. execution)
    redis.call('DEL', 'rq:execution:' .. id .. ':' .. execution)
    redis.pcall('ZREM', 'rq:executions:' .. id, execution)  -- others may have written it
  end
  if dead then
    local worker = 'rq:worker:' .. ARGV[1]
    for name in string.gmatch(redis.call('HGET', worker, 'queues') or '', '[^,]+') do
      redis.call('SREM', 'rq:workers:' .. name, worker)
    end
    redis.call('SREM', 'rq:workers', worker)
    redis.call('DEL', worker)
    redis.call('HDEL', KEYS[1], ARGV[1])
  else
    redis.call('HDEL', 'rq:worker:' .. ARGV[1], 'current_job')
    redis.call('HSET', 'rq:worker:' .. ARGV[1], 'state', 'idle')
    redis.call('HSET', KEYS[1], ARGV[1], string.match(slot, '^%d+'))
  end
end

-- A job that was canceled while it ran keeps its result, as in RQ, but neither goes on nor lets
-- others go on.
local group, status = '', nil
if execution then
  group, status = unpack(redis.call('HMGET', 'rq:job:' .. id, 'rq_clock_group', 'status'))
end
group = group or ''
local canceled = status == 'canceled' and ARGV[4] ~= '-1'
if not status
  or not (canceled or redis.call('ZSCORE', 'rq:wip:' .. queue, id .. ':' .. execution)) then
  leave()
  pass_turn(group)
  return {'refused'}
end

position = 4
local count, expected = tonumber(take()), {}
for _ = 1, count do
  expected[take()] = true
end
for _, dependent in ipairs(redis.pcall('SMEMBERS', 'rq:job:' .. id .. ':dependents')) do
  if count >= 0 and not canceled and not expected[dependent] then return {'dependents'} end
end

leave()
local of, known = prefix_of(KEYS[2]), false
local run = {id = id, prefix = of, schedule = take(), fire = take(), codes = take()}
local schedule, fire, ending, success, keep, failed, again =
  run.schedule, run.fire, take(), take(), take(), tonumber(take()), take()
if schedule ~= '' then
  known = finish(run, ending, again, keep)
  local newest = redis.call('HGET', key('succeeded', of), schedule)
  if known and success == '1' and (not newest or tonumber(newest) < tonumber(fire)) then
    redis.call('HSET', key('succeeded', of), schedule, fire)
  end
  if known and (again == '' or success == '1') then
    local state, started, ended = string.match(ending, '^(%S+) %d+ (%d+) (%d+)')
    remember(schedule, state, fire, started, ended, of)
  end
  if known and failed > 0 then
    keep_failed(run, failed)
  end
end
for _ = 1, tonumber(take()) do
  tally(known and schedule, take(), take(), of)
end

local failure
for _ = 1, tonumber(take()) do
  local fault = attempt(take_command())
  failure = failure or fault
end
if group ~= '' and count >= 0 then
  end_turn(group, id)
end
if dead then
  redis.call('DEL', 'rq:worker:' .. ARGV[1])  -- the commands count what it did
end
if failure then return {'error', failure} end
return {'ended'}
