-- Cache a group's members, unless the group was changed since its version was read.
-- KEYS[1]  string, the cached members                                      write
-- KEYS[2]  string, the group's version: a counter, absent if none is known  read
-- ARGV     the version that was read before the database was (empty: none), the members as JSON, lifetime in ms
-- Returns 1 if it was set, 0 if the group was changed meanwhile: what was read may be stale.
if (redis.call("GET", KEYS[2]) or "") ~= ARGV[1] then return 0 end
redis.call("SET", KEYS[1], ARGV[2], "PX", ARGV[3])
return 1
