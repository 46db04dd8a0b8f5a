-- A group was changed: delete its cached members, and prevent that a list read before is cached.
-- KEYS[1]  string, the cached members                                      write
-- KEYS[2]  string, the group's version: a counter                          read, write
-- ARGV     lifetime of the version in ms, longer than any reading of the database
-- The counter begins at the server's clock (microseconds): one that expired, or was lost with the server, does not come back
-- to a number that a slow reader still holds. Returns nothing.
local now = redis.call("TIME")
local version = math.max((tonumber(redis.call("GET", KEYS[2])) or 0) + 1, now[1] * 1000000 + now[2])
redis.call("SET", KEYS[2], string.format("%.0f", version), "PX", ARGV[1])
redis.call("DEL", KEYS[1])
