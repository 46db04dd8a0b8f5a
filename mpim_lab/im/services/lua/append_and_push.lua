-- Recognise a message that was sent before; number a new one, append it to its conversation's log, push it: one atomic step.
-- KEYS[1]   string, the conversation's last number                                read, write
-- KEYS[2]   string, a message id of this sender's: the number it was given        read, write
-- KEYS[3]   stream, the conversation's log, entry "<number>-0", fields id, data   write
-- KEYS[4]   stream, the outbox: what is still to be done for a message            write
-- KEYS[5..] set, the conversations in which a user takes part: from the first message on   write
-- ARGV      message id, lifetime of its record in ms, conversation, frame up to the number, frame after it, "group" or "",
--           every how many messages the log is trimmed, then the channels to push to
-- The frame ends with the server's time: '<before><number><after><ms>}'.
-- Returns {number, 1 if it is new, how many are subscribed to the first channel, the outbox entry's id or "", time in ms}.
-- The step that can fail, XADD, comes before those that remember.
local known = redis.call("MGET", KEYS[1], KEYS[2])
if known[2] then return {tonumber(known[2]), 0, 0, "", 0} end
local number = (tonumber(known[1]) or 0) + 1
local digits = string.format("%d", number)  -- written once: every call below would write it anew
local time = redis.call("TIME")
local at = time[1] .. string.sub(string.format("%06d", time[2]), 1, 3)
local frame = ARGV[4] .. digits .. ARGV[5] .. at .. "}"
redis.call("XADD", KEYS[3], digits .. "-0", "id", ARGV[1], "data", frame)
redis.call("SET", KEYS[1], digits)
redis.call("SET", KEYS[2], digits, "PX", ARGV[2])
local todo = ""
if ARGV[6] == "group" then todo = redis.call("XADD", KEYS[4], "*", "do", "push", "conversation", ARGV[3], "sequence", number) end
if number % ARGV[7] == 0 then redis.call("XADD", KEYS[4], "*", "do", "trim", "conversation", ARGV[3], "sequence", number) end
if number == 1 then
  for index = 5, #KEYS do redis.call("SADD", KEYS[index], ARGV[3]) end
end
local push, listened = ARGV[1] .. " " .. ARGV[3] .. " " .. digits .. " " .. frame, 0
for index = 8, #ARGV do
  local count = redis.call("PUBLISH", ARGV[index], push)
  if index == 8 then listened = count end
end
return {number, 1, listened, todo, tonumber(at)}
