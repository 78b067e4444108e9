--! keys
-- Read what the leading clock watches beside its tick: fire times that nobody has decided, attempts
-- that have ended, jobs that block their schedules, queues that no worker serves.
--
-- KEYS  1 due   2 rq:queues
-- ARGV  1 fire times before this (ms) are overdue   2 the attempt that was seen last, or "" for the
--       newest there is   3 limit of each kind   4 where to go on in the queues, "0" for their
--       start   5 queues to look at   … ids of jobs
-- Returns {overdue, attempt, ended, live, unserved, where to go on in the queues, "0" at the end}
--         overdue    schedule, fire time (ms), …: the longest overdue first
--         attempt    the one to go on from next time
--         ended      {id, fields, revision of the schedule} of each attempt since, oldest first; only
--                    of schedules that still exist
--         live       those of the jobs that wait or run
--         unserved   those of the queues with waiting jobs and no living worker
-- Nothing is written.

local limit = tonumber(ARGV[3])
local overdue = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1], 'WITHSCORES',
  'LIMIT', 0, limit)

local seen, ended = ARGV[2], {}
if seen == '' then
  local newest = redis.call('XREVRANGE', key('runs'), '+', '-', 'COUNT', 1)[1]
  seen = newest and newest[1] or '0-0'
else
  for _, attempt in ipairs(redis.call('XRANGE', key('runs'), '(' .. seen, '+', 'COUNT', limit)) do
    local id, fields = attempt[1], attempt[2]
    local schedule
    for i = 1, #fields, 2 do
      schedule = fields[i] == 'schedule' and fields[i + 1] or schedule
    end
    if redis.call('HEXISTS', key('definitions'), schedule or '') == 1 then
      ended[#ended + 1] = {id, fields, redis.call('HGET', key('revisions'), schedule) or '0'}
    end
    seen = id
  end
end

local live = {}
for i = 6, #ARGV do
  live[#live + 1] = is_live(ARGV[i]) and ARGV[i] or nil
end

local function served(name)
  for _, worker in ipairs(redis.call('SMEMBERS', 'rq:workers:' .. name)) do
    if redis.call('EXISTS', worker) == 1 then return true end
  end
  return false
end

local unserved = {}
local cursor, queues = some_members(KEYS[2], ARGV[4], ARGV[5])
for _, queue in ipairs(queues) do
  local name = string.sub(queue, #'rq:queue:' + 1)
  local length = redis.pcall('LLEN', queue)
  if type(length) == 'number' and length > 0 and not served(name) then
    unserved[#unserved + 1] = name
  end
end
return {overdue, seen, ended, live, unserved, cursor}
