-- A connection ended: delete its route and no other's (compare and delete); notify who watches if it was the last one.
-- KEYS[1]  zset, the user's routes "device gateway connection" by the time in ms until which each counts   read, write
-- ARGV     device, gateway, connection, the user's status channel
-- Returns 1 if the route was there.
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", string.format("%d", now))
local removed = redis.call("ZREM", KEYS[1], ARGV[1] .. " " .. ARGV[2] .. " " .. ARGV[3])
if removed == 1 and redis.call("ZCARD", KEYS[1]) == 0 then redis.call("PUBLISH", ARGV[4], "offline:" .. ARGV[2]) end
return removed
