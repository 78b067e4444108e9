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

local now, answer, ids = server_ms(), {}, {}
local first = first_queued()
local soonest = first or math.huge

local function reply(id, created)
  for _, word in ipairs({id, created, redis.call('HGET', key('tasks'), id),
    redis.call('HGET', key('task-details'), id) or '', redis.call('HGET', key('task-tags'), id) or ''}) do
    answer[#answer + 1] = word
  end
  ids[#ids + 1] = 'task_' .. id
end

-- Return the task that lives with a dedup key.
local function twin_of(name)
  local id = redis.call('HGET', key('task-dedup'), name)
  local t = id and read_task(id)
  return t and not SHELVES[t.state] and id
end

while position <= #ARGV do
  local id, name, words, details, tags = take(), take(), take(), take(), take()
  local twin = name ~= '' and twin_of(name)
  if redis.call('HEXISTS', key('tasks'), id) == 1 then
    reply(id, 1)
  elseif twin then
    reply(twin, 0)
  else
    local execute = tonumber(string.match(words, '^%d+') or '') or 0
    local from = math.max(execute, now)
    local head = {'waiting', 0, 0, 0, whole(from), '-', '-', '-', whole(now), words}
    local record = table.concat(head, ' ')
    local t = parse_task(record)
    if not t then return redis.error_reply('ERR not a record of a task') end
    redis.call('HSET', key('tasks'), id, record)
    for hash, value in pairs({['task-details'] = details, ['task-tags'] = tags, ['task-keys'] = name}) do
      if value ~= '' then
        redis.call('HSET', key(hash), id, value)
      end
    end
    if name ~= '' then
      redis.call('HSET', key('task-dedup'), name, id)
    end
    enqueue_task(id, t)
    soonest = math.min(soonest, from)
    tally_task('added')
    reply(id, 1)
  end
end
keep_counts(now)
keep_request(table.concat(ids, ' '))
if soonest < (first or math.huge) and not (first and first <= now) then
  redis.call('PUBLISH', key('news'), ':callbacks')
end
return answer
