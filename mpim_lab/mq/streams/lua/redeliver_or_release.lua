-- Deliver entries to the consumer that has them already, or give them back; what is not its own any more is left alone.
-- KEYS[1]  stream, the group's pending list                 read, write
-- ARGV     group, consumer, "again" or "release", then for each entry: its id, how often it was delivered
-- Gives the entries (again: each counts one more delivery), or the ids (release: idle for a day, so that the next claim takes
-- them at once).
local group = redis.pcall("XPENDING", KEYS[1], ARGV[1])
if group.err then return group end
if ARGV[3] == "again" then return claim_own(KEYS[1], ARGV[1], ARGV[2], 4) end
return claim_own(KEYS[1], ARGV[1], ARGV[2], 4, "IDLE", "86400000", "JUSTID")
