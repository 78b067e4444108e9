--! audit outcomes
-- Enqueue a run of a schedule now, by hand, for this instant or again for a fire time of the past.
-- The schedule is not moved.
--
-- KEYS  1 definitions   2 its queue
-- ARGV  1 schedule   2 job id   3 now ms   4 overlap ("skip" | "allow")
--       5 entries a ledger may have   6 entries the audit may have
--       7 its fire time, ms   8 number of words of the entry for the audit, then these
--       … the job's commands, as `enqueue` takes them, and the last, as audit.lua takes it
-- Returns {"ok"}                  also when this very job was enqueued before
--         {"overlap", job id…}    these are still queued or running; nothing was written
--         {"twin", job id}        this one of the same fire time is; nothing was written
--         {"missing"}             there is no such schedule
--         {"error", text}         it could not be written; nothing was

local name, id, now, fire = ARGV[1], ARGV[2], ARGV[3], ARGV[7]
if redis.call('HEXISTS', KEYS[1], name) == 0 then return {'missing'} end
local base, jobs = state_of(name, prefix, '- 0')
local alive = living(jobs)
local other = fire ~= now and twin(id, alive)
if other then return {'twin', other} end
if ARGV[4] == 'skip' and #alive > 0 and redis.call('EXISTS', 'rq:job:' .. id) == 0 then
  return {'overlap', unpack(alive)}
end
position = 9 + tonumber(ARGV[8])
local fault, before = enqueue(id, KEYS[2])
if fault then return {'error', fault} end
if not before then
  record(key('ledger:' .. name), 'm', fire, now, ledger_cap(ARGV[5]))
  tally(name, 'fire enqueued manual', 1)
  keep_state(name, base, add_job(jobs, id, alive))
  audit(ARGV[6], unpack(ARGV, 9, 8 + ARGV[8]))
end
return {'ok'}
