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

-- Enter a change in the audit of about `cap` entries.
local function audit(cap, ...)
  redis.call('XADD', key('audit'), 'MAXLEN', '~', cap, '*', ...)
  if request then
    redis.call('SET', request, made, 'PX', 24 * 3600 * 1000)
  end
end
