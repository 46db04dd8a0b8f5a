-- A consumer leaves its group for good: its name is free, and nothing is left of it if it has nothing pending.
-- KEYS[1]  string, the consumer's lease: "<client's id> <life>"        read, write
-- KEYS[2]  stream, the group                                           read, write
-- ARGV     group, consumer, its life ("": whichever it was, it has no lease any more)
-- Gives 1 if the consumer was removed; 0 if something is pending, another life has the name, or the group is gone.
local holder = redis.call("GET", KEYS[1])
if holder and string.match(holder, "%S+$") ~= ARGV[3] then return 0 end
redis.call("DEL", KEYS[1])
local pending = redis.pcall("XPENDING", KEYS[2], ARGV[1], "-", "+", 1, ARGV[2])
if pending.err or #pending > 0 then return 0 end
redis.call("XGROUP", "DELCONSUMER", KEYS[2], ARGV[1], ARGV[2])
return 1
