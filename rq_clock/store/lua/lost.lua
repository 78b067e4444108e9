-- Record that a job which blocks its schedule has vanished, and stop it from blocking.
--
-- KEYS  1 lease   2 markers   3 the schedule's ledger   4 outcomes   5 failing   6 counters
-- ARGV  1 token   2 schedule   3 job id   4 now ms, which stands for its start and its end
--       5 the field of counters for such a run
-- Returns 1; 0 when the token is no longer the lease's or the job blocks nothing any more.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
local state = redis.call('HGET', KEYS[2], ARGV[2]) or ''
local base, jobs = string.match(state, '^(%S+ %S+) ?(.*)$')
local left, found = '', 0
for id in string.gmatch(jobs or '', '%S+') do
  if id == ARGV[3] then
    found = 1
  else
    left = left .. ' ' .. id
  end
end
if found == 1 then
  redis.call('RPUSH', KEYS[3], 'x ' .. ARGV[4] .. ' ' .. ARGV[3])
  redis.call('HSET', KEYS[2], ARGV[2], base .. left)
  local fire = string.match(ARGV[3], '%-(%d+)%-[mb]%d+$') or string.match(ARGV[3], '%-(%d+)$')
  remember(KEYS[4], KEYS[5], ARGV[2], 'lost', fire or ARGV[4], ARGV[4], ARGV[4])
  tally(KEYS[6], ARGV[2], ARGV[5], 1)
end
return found
