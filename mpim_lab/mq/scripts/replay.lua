-- Put a dead letter back at the end of its stream and take it from the dead letters, in one step.
-- KEYS[1]  stream, where it goes        write
-- KEYS[2]  stream, the dead letters     read, write
-- ARGV     the dead letter's id
-- Gives the new entry's id; false when there is no such dead letter (somebody else replayed or dropped it).
local found = redis.call("XRANGE", KEYS[2], ARGV[1], ARGV[1])
if #found == 0 then return false end
local fields, letter = {}, found[1][2]
for index = 1, #letter, 2 do
  if string.sub(letter[index], 1, 1) ~= "_" then
    fields[#fields + 1] = letter[index]
    fields[#fields + 1] = letter[index + 1]
  end
end
local new = redis.call("XADD", KEYS[1], "*", unpack(fields))
redis.call("XDEL", KEYS[2], ARGV[1])
return new
