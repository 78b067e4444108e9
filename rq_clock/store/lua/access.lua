-- Return which of the commands that scripts use this user may not call. Needs Redis 7 or Valkey;
-- an older server refuses only when a script gets there.
--
-- KEYS  none: a key would be refused before the script runs
-- ARGV  1 number of keys, then these (also as channels)   then names of commands
-- Returns {"PUBLISH" and the key, …}, at most one a command.

local refused, count = {}, tonumber(ARGV[1])
if not redis.acl_check_cmd then return refused end
for i = count + 2, #ARGV do
  for k = 2, count + 1 do
    local key = ARGV[k]
    local known, allowed = pcall(redis.acl_check_cmd, ARGV[i], key, key, key, key)
    if known and not allowed then
      refused[#refused + 1] = ARGV[i] .. ' ' .. key
      break
    end
  end
end
return refused
