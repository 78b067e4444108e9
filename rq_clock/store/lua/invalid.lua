--! keys
-- Enter in their ledgers that fire times cannot be decided: the schedule cannot be read, or raised an
-- error. Their markers stay, so a schedule that is put right catches up.
--
-- KEYS  1 lease
-- ARGV  1 token   2 entries a ledger may have
--       then for each: schedule; fire time, ms; error, one line
-- Returns 1; 0 when the token is no longer the lease's, and nothing was written.
-- The same error behind the same is not entered: a clock that starts finds it again.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
local cap = ledger_cap(ARGV[2])
for i = 3, #ARGV, 3 do
  local fire, fault = ARGV[i + 1], ' 1 invalid ' .. ARGV[i + 2]
  local ledger = key('ledger:' .. ARGV[i])
  local last = redis.pcall('LINDEX', ledger, -1)
  last = type(last) == 'string' and string.match(last, '^%- %d+ %d+(.*)$')
  if last ~= fault and redis.call('HEXISTS', key('definitions'), ARGV[i]) == 1 then
    append(ledger, '- ' .. fire .. ' ' .. fire .. fault, cap)
  end
end
return 1
