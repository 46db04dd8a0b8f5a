-- A gateway's heartbeat for many connections at once: each route counts for another lifetime.
-- KEYS     zset, a user's routes "device gateway connection" by the time in ms until which each counts   read, write
-- ARGV     lifetime in ms, gateway, then a device and a connection for each key
-- Returns for each key 1, or 0 if another connection of the same device has taken its place: then nothing is changed.
-- A route that ended while its gateway was silent is made again: the connection is there, as its gateway knows.
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answers = {}
for index, key in ipairs(KEYS) do
  local device, connection = ARGV[1 + 2 * index], ARGV[2 + 2 * index]
  local mine, theirs = device .. " " .. ARGV[2] .. " " .. connection, false
  for _, route in ipairs(redis.call("ZRANGEBYSCORE", key, string.format("(%d", now), "+inf")) do
    if route ~= mine and string.match(route, "^%S+") == device then theirs = true end
  end
  if not theirs then
    redis.call("ZADD", key, string.format("%d", now + ARGV[1]), mine)
    redis.call("PEXPIRE", key, ARGV[1])
  end
  answers[index] = theirs and 0 or 1
end
return answers
