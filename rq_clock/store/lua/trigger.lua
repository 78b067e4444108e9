-- Enqueue a run of a schedule now, by hand, for this instant or again for a fire time of the past.
-- The schedule is not moved.
--
-- KEYS  1 definitions   2 markers   3 audit   4 the schedule's ledger   5 its queue
--       6 counters
-- ARGV  1 schedule   2 job id   3 now ms   4 overlap ("skip" | "allow")
--       5 entries a ledger may have   6 entries the audit may have
--       7 its fire time, ms   8 number of words of the entry for the audit, then these
--       … the job's commands, as jobs.lua takes them
-- Returns {"ok"}                  also when this very job was enqueued before
--         {"overlap", job id…}    these are still queued or running; nothing was written
--         {"twin", job id}        this one of the same fire time is; nothing was written
--         {"missing"}             there is no such schedule
--         {"error", text}         it could not be written; nothing was

local name, id, now, fire = ARGV[1], ARGV[2], ARGV[3], ARGV[7]
if redis.call('HEXISTS', KEYS[1], name) == 0 then
  return {'missing'}
end
local base, jobs = string.match(redis.call('HGET', KEYS[2], name) or '- 0', '^(%S+ %S+) ?(.*)$')
local alive = living(jobs)
local start = string.match(id, '^(.*)%-m%d+$')
for _, other in ipairs(fire ~= now and alive or {}) do
  if other ~= id and (other == start or string.sub(other, 1, #start + 1) == start .. '-') then
    return {'twin', other}
  end
end
if ARGV[4] == 'skip' and #alive > 0 and redis.call('EXISTS', 'rq:job:' .. id) == 0 then
  return {'overlap', unpack(alive)}
end
position = 9 + tonumber(ARGV[8])
local failure, before = enqueue(id, KEYS[5])
if failure then
  return {'error', failure}
end
if not before then
  record(KEYS[4], 'm', fire, now, ARGV[5])
  tally(KEYS[6], name, 'fire enqueued manual', 1)
  -- Before the one that the clock enqueued last, which it knows its own commit by, ended or not.
  local last = string.match(jobs, '%S+$')
  if last and alive[#alive] ~= last then
    alive[#alive + 1] = last
  end
  redis.call('HSET', KEYS[2], name, base .. ' ' .. table.concat({id, unpack(alive)}, ' '))
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', unpack(ARGV, 9, 8 + ARGV[8]))
end
return {'ok'}
