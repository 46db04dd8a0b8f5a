-- How far users have acknowledged conversations: forward only, never beyond the last message, many at once.
-- KEYS     for each a hash, a user's conversations: the last number acknowledged   read, write
--          and a string, the conversation's last number                            read
-- ARGV     for each a conversation and a number
-- Returns for each how far the user is now. A conversation without messages is not stored: a client cannot fill the hash.
local far = {}
for index = 1, #KEYS / 2 do
  local key, conversation = KEYS[2 * index - 1], ARGV[2 * index - 1]
  local last = tonumber(redis.call("GET", KEYS[2 * index])) or 0
  local number = math.min(tonumber(ARGV[2 * index]), last)
  local before = tonumber(redis.call("HGET", key, conversation)) or 0
  if number > before then redis.call("HSET", key, conversation, number) end
  far[index] = math.max(number, before)
end
return far
