--! audit tasks
-- Add tasks, all of them or none.
--
-- KEYS  1 tasks
-- ARGV  … for each task: id; dedup key or ""; the words of its record from `execute` on; details and
--       tags as JSON, or ""
--       … and the last, as audit.lua takes it
-- Returns for each task: its id, 1 if it was created, its record, details and tags. With the dedup key
-- of a task that lives, that one, which was not created. A task of this id is ours: the reply to an
-- earlier call was lost.

local now, answer, ids, names = server_ms(), {}, {}, {}
local first = first_queued()
local soonest = first or math.huge

local function reply(id, created, record, details, tags)
  for _, word in ipairs({id, created, record, details, tags}) do
    answer[#answer + 1] = word
  end
  ids[#ids + 1] = 'task_' .. id
end

local function stored(id, created)
  flush()
  local record = redis.call('HGET', key('tasks'), id)
  local details = redis.call('HGET', key('task-details'), id) or ''
  reply(id, created, record, details, redis.call('HGET', key('task-tags'), id) or '')
end

-- Return the task that lives with a dedup key.
local function twin_of(name)
  local id = names[name] or redis.call('HGET', key('task-dedup'), name)
  local t = id and read_task(id)
  return t and not SHELVES[t.state] and id
end

local function create(id, name, words, details, tags)
  local execute = tonumber(string.match(words, '^%d+') or '') or 0
  local from = math.max(execute, now)
  local head = {'waiting', 0, 0, 0, whole(from), '-', '-', '-', whole(now), words}
  local record = table.concat(head, ' ')
  local t = parse_task(record)
  known[id] = t
  write('HSET', key('tasks'), id, record)
  if details ~= '' then
    write('HSET', key('task-details'), id, details)
  end
  if tags ~= '' then
    write('HSET', key('task-tags'), id, tags)
  end
  if name ~= '' then
    names[name] = id
    write('HSET', key('task-keys'), id, name)
    write('HSET', key('task-dedup'), name, id)
  end
  enqueue_task(id, t)
  soonest = math.min(soonest, from)
  tally_task('added')
  reply(id, 1, record, details, tags)
end

while position <= #ARGV do
  local id, name, words, details, tags = take(), take(), take(), take(), take()
  local twin = name ~= '' and twin_of(name)
  if redis.call('HEXISTS', key('tasks'), id) == 1 then
    stored(id, 1)
  elseif twin then
    stored(twin, 0)
  else
    create(id, name, words, details, tags)
  end
end
flush()
keep_counts(now)
keep_request(table.concat(ids, ' '))
if soonest < (first or math.huge) and not (first and first <= now) then
  redis.call('PUBLISH', key('news'), ':callbacks')
end
return answer
