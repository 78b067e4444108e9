--! keys
-- Read RQ's queues and workers at one moment.
--
-- KEYS  1 rq:queues   2 rq:workers   3 workers, those of this namespace
-- ARGV  1 limit of queues   2 of workers   … names of queues to include even if nothing was ever in
--       them
-- Returns {now in seconds, microseconds, queues, workers}
--         queues   {name, queued, started, scheduled, deferred, failed, finished, canceled, when the
--                  first that waits was enqueued or ""}, by name; an unreadable key counts as empty
--         workers  {name, state, queues, current job, last sign of life, birth, host, pid, version,
--                  its value in workers or "", when its job started or ""}; only living ones
-- Nothing is written.

local function size(command, key)
  local n = redis.pcall(command, key)
  return type(n) == 'number' and n or 0
end

local known, names = {}, {}
local function add(name)
  if not known[name] and #names < tonumber(ARGV[1]) then
    known[name] = true
    names[#names + 1] = name
  end
end
for i = 3, #ARGV do
  add(ARGV[i])
end
local _, registered = some_members(KEYS[1], '0', ARGV[1])
for _, key in ipairs(registered) do
  add(string.sub(key, #'rq:queue:' + 1))
end
table.sort(names)

local queues = {}
for i, name in ipairs(names) do
  local head = redis.pcall('LINDEX', 'rq:queue:' .. name, 0)
  local since = type(head) == 'string' and read('HMGET', 'rq:job:' .. head, 'enqueued_at')[1]
  queues[i] = {name, size('LLEN', 'rq:queue:' .. name), size('ZCARD', 'rq:wip:' .. name),
    size('ZCARD', 'rq:scheduled:' .. name), size('ZCARD', 'rq:deferred:' .. name),
    size('ZCARD', 'rq:failed:' .. name), size('ZCARD', 'rq:finished:' .. name),
    size('ZCARD', 'rq:canceled:' .. name), since or ''}
end

local workers = {}
local ours = redis.call('HGETALL', KEYS[3])
local signs = {}
for i = 1, #ours, 2 do
  signs[ours[i]] = ours[i + 1]
end
for _, key in ipairs(redis.call('SRANDMEMBER', KEYS[2], ARGV[2])) do
  local facts = read('HMGET', key, 'state', 'queues', 'current_job', 'last_heartbeat',
    'birth', 'hostname', 'pid', 'version', 'death')
  if facts[2] and not facts[9] then  -- else it has died and was not removed yet
    local name = string.sub(key, #'rq:worker:' + 1)
    local row = {name}
    for i = 1, 8 do
      row[i + 1] = facts[i] or ''
    end
    row[10] = signs[name] or ''
    local job = facts[3] or ''
    row[11] = job ~= '' and read('HMGET', 'rq:job:' .. job, 'started_at')[1] or ''
    workers[#workers + 1] = row
  end
end
local now = redis.call('TIME')
return {now[1], now[2], queues, workers}
