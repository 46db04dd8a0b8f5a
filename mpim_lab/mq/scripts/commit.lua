-- Move a partition's offset past some entries and run their effects, in one step, if the seat has not changed hands.
-- KEYS[1]   hash, the partition's seat: token, offset                      read, write
-- KEYS[2..] the keys of the effects, in their order                        write
-- ARGV      token, number of entries; then for each entry: its id, its effects (see effects.lua)
-- Gives {entries done, why the next one was refused or ""}; -1 entries: the seat has another token.
-- The effects of an entry, which can fail, come before the offset moves past it, which cannot.
if redis.call("HGET", KEYS[1], "token") ~= ARGV[1] then return {-1, ""} end
local at, key, offset, done, problem = 3, 2, false, 0, false
for _ = 1, tonumber(ARGV[2]) do
  problem = try_effects(at + 1, key)
  if problem then break end
  offset, done = ARGV[at], done + 1
  at, key = after_effects(at + 1, key)
end
if offset then redis.call("HSET", KEYS[1], "offset", offset) end
return {done, problem or ""}
