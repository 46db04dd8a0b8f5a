-- Recognise a message that was sent before, give a new one its conversation's next sequence number, append and publish it: atomically.
-- KEYS[1]  string, the conversation's last sequence number                 read, write
-- KEYS[2]  string, the sender's message id: its sequence number            read, write
-- KEYS[3]  stream, where it goes                                           write
-- ARGV     message id, payload, lifetime (TTL) of the id in ms, conversation, channel
-- With a conversation, the entry gets the fields conversation, seq, id and data, and an id by the server's clock (a partition);
-- without one, the entry's id is "<sequence>-0" and its fields are id and data (a conversation's own log).
-- On the channel, if there is one: "<sequence> <payload>".
-- Returns {sequence, 1 if it is new}. The step that can fail, XADD, comes before those that remember.
local known = redis.call("GET", KEYS[2])
if known then return {tonumber(known), 0} end
local sequence = (tonumber(redis.call("GET", KEYS[1])) or 0) + 1
if ARGV[4] ~= "" then
  redis.call("XADD", KEYS[3], "*", "conversation", ARGV[4], "seq", sequence, "id", ARGV[1], "data", ARGV[2])
else
  redis.call("XADD", KEYS[3], sequence .. "-0", "id", ARGV[1], "data", ARGV[2])
end
redis.call("SET", KEYS[1], sequence)
redis.call("SET", KEYS[2], sequence, "PX", ARGV[3])
if ARGV[5] ~= "" then redis.call("PUBLISH", ARGV[5], sequence .. " " .. ARGV[2]) end
return {sequence, 1}
