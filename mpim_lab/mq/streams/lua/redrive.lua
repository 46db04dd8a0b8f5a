-- Put a dead letter back at the end of its stream and take it from the dead letters, in one atomic step.
-- KEYS[1]  stream, where it goes        write
-- KEYS[2]  stream, the dead letters     read, write
-- ARGV     the dead letter's id, the names of the fields that come before the entry's own
-- Gives the new entry's id; false when there is no such dead letter (somebody else redrove or deleted it).
-- What does not begin with those names was put here by another program: all of it is the entry's own.
local found = redis.call("XRANGE", KEYS[2], ARGV[1], ARGV[1])
if #found == 0 then return false end
local letter, ours = found[1][2], 2 * #ARGV - 2
if #letter <= ours then ours = 0 end
for index = 1, ours, 2 do
  if letter[index] ~= ARGV[(index + 3) / 2] then ours = 0 end
end
local words = {"*"}
for index = ours + 1, #letter do words[#words + 1] = letter[index] end
local new = call("XADD", KEYS[1], words, 1, #words)
redis.call("XDEL", KEYS[2], ARGV[1])
return new
