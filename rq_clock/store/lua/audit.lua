--! keys
-- The audit of what people change, and requests that act once: the script that makes a thing also
-- writes its record. It stands before the scripts that name it in their first line.
--
-- KEYS  1 any key of the namespace
-- ARGV  the last: "", or of a request that acts once "<hash> <digest> <id of the thing made>"
-- Returns {"repeated", "<digest> <id>"} at once if the request has acted before

local hash, made = string.match(table.remove(ARGV), '^(%S+) (.*)$')
local request = hash and key('idempotency:' .. hash)
local before = request and redis.call('GET', request)
if before then return {'repeated', before} end

-- Write the record of a request; `id` is that of the thing made, where the caller did not know it.
local function keep_request(id)
  if request then
    local record = id and string.match(made, '^%S+') .. ' ' .. id or made
    redis.call('SET', request, record, 'PX', 24 * 3600 * 1000)
  end
end

-- Enter a change in the audit of about `cap` entries.
local function audit(cap, ...)
  redis.call('XADD', key('audit'), 'MAXLEN', '~', cap, '*', ...)
  keep_request()
end
