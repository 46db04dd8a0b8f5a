-- Make a group again that the server has lost, where it was, with what one of its members has in flight.
-- KEYS[1]  stream                                                      read, write
-- ARGV     group, consumer, the last id that the group was given as far as this member knows, then for each entry in flight: its
--          id, how often it was delivered
-- A member that comes later and knows more moves the group on: what it knows was given to somebody. A stream whose last id is
-- below that is another one, and all that it holds is new.
local function is_above(one, other)
  local ms, number = string.match(one, "(%d+)-(%d+)")
  local other_ms, other_number = string.match(other, "(%d+)-(%d+)")
  if ms == other_ms then ms, other_ms = number, other_number end
  if #ms ~= #other_ms then return #ms > #other_ms end
  return ms > other_ms
end
local function field(flat, name)
  for at = 1, #flat, 2 do if flat[at] == name then return flat[at + 1] end end
end
local stream = redis.pcall("XINFO", "STREAM", KEYS[1])
local is_another = is_above(ARGV[3], stream.err and "0-0" or field(stream, "last-generated-id"))
local start = is_another and "0-0" or ARGV[3]
local made = redis.pcall("XGROUP", "CREATE", KEYS[1], ARGV[1], start, "MKSTREAM")
if made.err then
  if string.sub(made.err, 1, 9) ~= "BUSYGROUP" and string.sub(made.err, 1, 10) ~= "-BUSYGROUP" then return made end
  for _, group in ipairs(redis.call("XINFO", "GROUPS", KEYS[1])) do
    if field(group, "name") == ARGV[1] and is_above(start, field(group, "last-delivered-id")) then
      redis.call("XGROUP", "SETID", KEYS[1], ARGV[1], start)
    end
  end
end
for at = 4, is_another and 0 or #ARGV, 2 do
  local is_there = #redis.call("XRANGE", KEYS[1], ARGV[at], ARGV[at]) == 1
  if is_there and #redis.call("XPENDING", KEYS[1], ARGV[1], ARGV[at], ARGV[at], 1) == 0 then
    redis.call("XCLAIM", KEYS[1], ARGV[1], ARGV[2], 0, ARGV[at], "RETRYCOUNT", ARGV[at + 1], "FORCE", "JUSTID")
  end
end
return 1
