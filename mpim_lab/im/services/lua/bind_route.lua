-- Store where a device is connected; notify its older connections and those who watch the user: in one atomic step.
-- KEYS[1]  zset, the user's routes "device gateway connection" by the time in ms until which each counts   read, write
-- ARGV     device, gateway, connection, lifetime in ms, the user's status channel, what gateways' channels begin with
-- Returns the replaced routes, each as "gateway connection".
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", string.format("%d", now))
local replaced = {}
for _, route in ipairs(redis.call("ZRANGE", KEYS[1], 0, -1)) do
  local device, gateway, connection = string.match(route, "^(%S+) (%S+) (%S+)$")
  if device == ARGV[1] and connection ~= ARGV[3] then
    redis.call("ZREM", KEYS[1], route)
    redis.call("PUBLISH", ARGV[6] .. gateway, "replaced " .. connection)
    replaced[#replaced + 1] = gateway .. " " .. connection
  end
end
redis.call("ZADD", KEYS[1], string.format("%d", now + ARGV[4]), ARGV[1] .. " " .. ARGV[2] .. " " .. ARGV[3])
redis.call("PEXPIRE", KEYS[1], ARGV[4])
redis.call("PUBLISH", ARGV[5], "online:" .. ARGV[2])
return replaced
