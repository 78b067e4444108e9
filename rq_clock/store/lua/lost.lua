--! keys outcomes
-- Record that a job which blocks its schedule has vanished, and stop it from blocking.
--
-- KEYS  1 lease
-- ARGV  1 token   2 schedule   3 job id   4 now ms, which stands for its start and its end
--       5 the field of counters for such a run
-- Returns 1; 0 when the token is no longer the lease's or the job blocks nothing any more.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
local name, id, now = ARGV[2], ARGV[3], ARGV[4]
local state, left = state_of(name), {}
for _, job in ipairs(state and state.jobs or {}) do
  left[#left + 1] = job ~= id and job or nil
end
if not state or #left == #state.jobs then
  return 0
end
state.jobs = left
redis.call('RPUSH', key('ledger:' .. name), 'x ' .. now .. ' ' .. id)
keep_state(name, state)
local fire = string.match(id, '%-(%d+)%-[mb]%d+$') or string.match(id, '%-(%d+)$')
remember(name, 'lost', fire or now, now, now)
tally(name, ARGV[5], 1)
return 1
