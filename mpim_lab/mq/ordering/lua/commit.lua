-- Move a partition's offset past some entries and run their effects, atomically, if the lease has not changed hands.
-- KEYS[1]   hash, the partition's assignment: token, offset, tried_at, tries   read, write
-- KEYS[2..] the keys of the effects, in their order                              write
-- ARGV      token, the offset from which on these were read, number of entries; then for each entry: its id, its
--           effects (see effects.lua)
-- Returns {entries done, why the next one was refused or ""}; -1 entries: the assignment has another token, or
-- another offset: then this commit, or another of the same entries, was done already (its answer was lost,
-- or it came late).
-- The effects of an entry, which can fail, come before the offset moves past it, which cannot.
local assignment = redis.call("HMGET", KEYS[1], "token", "offset")
if assignment[1] ~= ARGV[1] or (assignment[2] or "0") ~= ARGV[2] then return {-1, ""} end
local at, key, offset, done, problem = 4, 2, false, 0, false
for _ = 1, tonumber(ARGV[3]) do
  problem = try_effects(at + 1, key)
  if problem then break end
  offset, done = ARGV[at], done + 1
  at, key = after_effects(at + 1, key)
end
if offset then redis.call("HSET", KEYS[1], "offset", offset, "tried_at", offset, "tries", 1) end
return {done, problem or ""}
