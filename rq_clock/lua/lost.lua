-- Record that a job which blocks its schedule has vanished, and stop it from blocking.
--
-- KEYS  1 lease   2 markers   3 the schedule's ledger
-- ARGV  1 token   2 schedule   3 job id   4 now ms
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
end
return found
