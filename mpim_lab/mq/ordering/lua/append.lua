-- Recognise a message that was sent before, give a new one its conversation's next number, append it, tell who listens: in one step.
-- KEYS[1]  string, the conversation's last number                          read, write
-- KEYS[2]  string, the sender's message id: the number it was given        read, write
-- KEYS[3]  stream, where it goes                                           write
-- ARGV     message id, payload, lifetime of the id's mark in ms, conversation, channel
-- With a conversation, the entry gets the fields conversation, seq, id and data, and an id by the server's clock (a partition);
-- without one, the entry's id is "<number>-0" and its fields are id and data (a conversation's own log).
-- On the channel, if there is one: "<number> <payload>".
-- Gives {number, 1 if it is new}. The step that can fail, XADD, comes before those that remember.
local given = redis.call("GET", KEYS[2])
if given then return {tonumber(given), 0} end
local number = (tonumber(redis.call("GET", KEYS[1])) or 0) + 1
if ARGV[4] ~= "" then
  redis.call("XADD", KEYS[3], "*", "conversation", ARGV[4], "seq", number, "id", ARGV[1], "data", ARGV[2])
else
  redis.call("XADD", KEYS[3], number .. "-0", "id", ARGV[1], "data", ARGV[2])
end
redis.call("SET", KEYS[1], number)
redis.call("SET", KEYS[2], number, "PX", ARGV[3])
if ARGV[5] ~= "" then redis.call("PUBLISH", ARGV[5], number .. " " .. ARGV[2]) end
return {number, 1}
