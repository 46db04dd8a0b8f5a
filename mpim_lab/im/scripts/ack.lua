-- How far users have acknowledged conversations: forward only, many at once.
-- KEYS     hash, a user's conversations: the last number acknowledged   read, write
-- ARGV     for each key a conversation and a number
-- Gives for each key how far the user is now.
local far = {}
for index, key in ipairs(KEYS) do
  local conversation, number = ARGV[2 * index - 1], tonumber(ARGV[2 * index])
  local before = tonumber(redis.call("HGET", key, conversation)) or 0
  if number > before then redis.call("HSET", key, conversation, number) end
  far[index] = math.max(number, before)
end
return far
