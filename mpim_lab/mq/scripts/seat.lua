-- One member of a group says that it is alive, and gets its fair share of the partitions.
-- KEYS[1]    zset, members by the time until which each counts as alive    read, write
-- KEYS[2..]  hash, a partition's seat: owner, token, offset, tried_at, tries   read, write
-- ARGV       member, ms until its next sign of life is due; 0: it leaves
-- Gives for each partition it has: {partition, token, offset, tries}.
-- A seat that changes hands gets a higher token: what the one before still tries to write is refused (commit.lua).
-- `tries` counts owners that died before they got past the same offset; a clean leave does not count.
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, lease, total = ARGV[1], tonumber(ARGV[2]), #KEYS - 1
redis.call("ZADD", KEYS[1], string.format("%d", now + lease), me)
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", string.format("%d", now))
local alive, rank, is_alive = redis.call("ZRANGE", KEYS[1], 0, -1), 0, {}
for _, member in ipairs(alive) do
  is_alive[member] = true
  if member < me then rank = rank + 1 end
end
local share = 0
if is_alive[me] then share = math.floor(total / #alive) + (rank < total % #alive and 1 or 0) end
local mine, free = {}, {}
for index = 2, #KEYS do
  local owner = redis.call("HGET", KEYS[index], "owner")
  if owner == me then
    if #mine < share then mine[#mine + 1] = index
    else redis.call("HDEL", KEYS[index], "owner", "tried_at", "tries") end
  elseif not owner or not is_alive[owner] then
    free[#free + 1] = index
  end
end
for _, index in ipairs(free) do
  if #mine >= share then break end
  local offset = redis.call("HGET", KEYS[index], "offset") or "0"
  if redis.call("HGET", KEYS[index], "tried_at") == offset then redis.call("HINCRBY", KEYS[index], "tries", 1)
  else redis.call("HSET", KEYS[index], "tried_at", offset, "tries", 1) end
  redis.call("HINCRBY", KEYS[index], "token", 1)
  redis.call("HSET", KEYS[index], "owner", me)
  mine[#mine + 1] = index
end
local answers = {}
for _, index in ipairs(mine) do
  local seat = redis.call("HMGET", KEYS[index], "token", "offset", "tries")
  answers[#answers + 1] = {index - 2, tonumber(seat[1]), seat[2] or "0", tonumber(seat[3]) or 1}
end
return answers
