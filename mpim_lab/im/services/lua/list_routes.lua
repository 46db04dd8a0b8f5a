-- Where users are connected now.
-- KEYS     zset, a user's routes "device gateway connection" by the time in ms until which each counts   read
-- Returns a list of routes for each key.
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {}
for index, key in ipairs(KEYS) do
  found[index] = redis.call("ZRANGEBYSCORE", key, string.format("(%d", now), "+inf")
end
return found
