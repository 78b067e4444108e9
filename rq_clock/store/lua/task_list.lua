--! keys tasks
-- Read a page of tasks that are in one place, in its order.
--
-- KEYS  1 the sorted set of the place
-- ARGV  1 "first" or "last": which end comes first   2 the member after which to go on, or ""
--       3 its score   4 limit
-- Returns for each task: member, score, record or "", tags or ""
-- A task that left meanwhile hides no other, also among many of the same score: the page begins behind
-- the place that it had.

local set, backwards, after, score = KEYS[1], ARGV[1] == 'last', ARGV[2], tonumber(ARGV[3])
local low, high = 0, redis.call('ZCARD', set)

local function read_range(first, last)
  if backwards then return redis.call('ZREVRANGE', set, first, last, 'WITHSCORES') end
  return redis.call('ZRANGE', set, first, last, 'WITHSCORES')
end

-- Return whether a place is at the end of the page before, or before that.
local function is_shown(rank)
  local member, at = unpack(read_range(rank, rank))
  at = tonumber(at)
  if at ~= score then return backwards and at > score or not backwards and at < score end
  return member == after or backwards and member > after or not backwards and member < after
end

if after ~= '' then
  while low < high do
    local middle = math.floor((low + high) / 2)
    if is_shown(middle) then
      low = middle + 1
    else
      high = middle
    end
  end
end

local found, answer = read_range(low, low + ARGV[4] - 1), {}
for i = 1, #found, 2 do
  local id = string.match(found[i], '%S+$') or ''
  for _, word in ipairs({found[i], found[i + 1], redis.call('HGET', key('tasks'), id) or '',
    redis.call('HGET', key('task-tags'), id) or ''}) do
    answer[#answer + 1] = word
  end
end
return answer
