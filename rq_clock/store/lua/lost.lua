--! keys outcomes
-- Record that a job which blocks its schedule has vanished, and unblock the schedule.
--
-- KEYS  1 lease
-- ARGV  1 token   2 schedule   3 job id   4 now ms, which stands for its start and its end
--       5 the field of counters for such a run   6 the job's fire time, ms, or "" for no run's id
--       7 entries a ledger may have
-- Returns 1; 0 when the token is no longer the lease's or the job blocks nothing any more.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
local name, id, now = ARGV[2], ARGV[3], ARGV[4]
local base, jobs = state_of(name)
local left = {}
for job in string.gmatch(jobs or '', '%S+') do
  left[#left + 1] = job ~= id and job or nil
end
left = table.concat(left, ' ')
if not base or left == jobs then return 0 end
append(key('ledger:' .. name), 'x ' .. now .. ' ' .. id, ledger_cap(ARGV[7]))
keep_state(name, base, left)
remember(name, 'lost', ARGV[6] ~= '' and ARGV[6] or now, now, now)
tally(name, ARGV[5], 1)
return 1
