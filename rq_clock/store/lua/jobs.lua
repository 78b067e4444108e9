-- What trigger.lua and backfill.lua share: RQ's commands for a job, all or none of them.
--
-- KEYS  none
-- ARGV  read with `take`, from `position` on: number of commands, then for each the number of its
--       words and the words
-- Returns nothing by itself

local position = 1

local function take()
  position = position + 1
  return ARGV[position - 1]
end

local LIVE = {queued = true, started = true, scheduled = true, deferred = true}

local function living(jobs)
  local found = {}
  for id in string.gmatch(jobs, '%S+') do
    local status = redis.pcall('HGET', 'rq:job:' .. id, 'status')
    if type(status) == 'string' and LIVE[status] then
      found[#found + 1] = id
    end
  end
  return found
end

-- Enqueue the job whose commands come next in ARGV. What stood in the way, or nil; then the job is
-- not there. One that exists is left alone: it was enqueued before.
local function enqueue(id, queue)
  local exists = redis.call('EXISTS', 'rq:job:' .. id) == 1
  local kind = redis.call('TYPE', queue).ok
  local failure = kind ~= 'none' and kind ~= 'list' and
    'the key ' .. queue .. ' of its queue is a ' .. kind .. ', not a list' or nil
  for _ = 1, tonumber(take()) do
    local words = {}
    for w = 1, tonumber(take()) do
      words[w] = take()
    end
    if not exists and not failure then
      local reply = redis.pcall(unpack(words))
      failure = type(reply) == 'table' and reply.err or nil
    end
  end
  if failure and not exists then
    redis.pcall('LREM', queue, -1, id)
    redis.pcall('DEL', 'rq:job:' .. id)
  end
  return failure, exists
end

-- Enter an enqueued fire time in a ledger.
local function record(ledger, mark, fire, now, cap)
  local lag = math.max(now - fire, 0)
  local length = redis.call('RPUSH', ledger, mark .. ' ' .. fire .. ' ' .. lag)
  if length > tonumber(cap) then
    redis.call('LTRIM', ledger, -cap, -1)
  end
end
