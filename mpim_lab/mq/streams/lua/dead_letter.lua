-- Move an entry from a group to its dead-letter queue, in one atomic step: never lost between the two, never twice.
-- KEYS[1]  stream, the entry's own             read: the group's pending list
-- KEYS[2]  stream, the group's dead letters    write
-- ARGV     group, id, "*", the dead letter's fields: name, value, ...
-- Gives the dead letter's id; false when the entry was no longer pending (somebody else acknowledged or dead-lettered it).
-- A script is not interrupted, but it is not rolled back either: the step that can fail, XADD, comes before the one that forgets.
if #redis.call("XPENDING", KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1) == 0 then return false end
local moved = call("XADD", KEYS[2], ARGV, 3, #ARGV)
redis.call("XACK", KEYS[1], ARGV[1], ARGV[2])
return moved
