-- A consumer's heartbeat: its name stays its own, and what it has in flight does not look abandoned.
-- KEYS[1]  string, the consumer's lease: "<client's id> <life>"        read, write
-- KEYS[2]  stream, the group's pending list                            read, write
-- ARGV     life, client's id, ms until the lease ends, group, consumer, then for each entry in flight: its id, how often it was
--          delivered
-- Gives {1 or 0: a later life has the name, the last id that the group was given, the ids that are still the consumer's}.
-- Without the group the last two are missing. A life that has lost its name keeps what it has in flight until it has finished it.
local holder = redis.call("GET", KEYS[1])
local is_mine = not holder or string.match(holder, "%S+$") == ARGV[1]
if is_mine then redis.call("SET", KEYS[1], ARGV[2] .. " " .. ARGV[1], "PX", ARGV[3]) end
local groups, delivered = redis.pcall("XINFO", "GROUPS", KEYS[2]), false
for _, group in ipairs(groups.err and {} or groups) do
  local of = {}
  for at = 1, #group, 2 do of[group[at]] = group[at + 1] end
  if of["name"] == ARGV[4] then delivered = of["last-delivered-id"] end
end
if not delivered then return {is_mine and 1 or 0} end
return {is_mine and 1 or 0, delivered, claim_own(KEYS[2], ARGV[4], ARGV[5], 6, "JUSTID")}
