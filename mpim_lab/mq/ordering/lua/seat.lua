-- One member of a group says that it is alive, and gets its fair share of the partitions.
-- KEYS[1]        zset, members by the time until which each counts as alive    read, write
-- KEYS[2..n+1]   hash, a partition's seat: owner, life, due, token, begun, offset, tried_at, tries   read, write
-- KEYS[n+2..]    stream, the partition's entries                               read
-- ARGV           member, which life of it this is, ms for which it counts as alive (0: it leaves), ms until its next sign of
--                life is due
-- Gives for each partition it has: {partition, token, offset, tries}.
-- A seat that changes hands gets a higher token: what the one before still tries to write is refused (commit.lua). A member
-- that has died and begun anew under the same name is another one.
-- `tries` counts owners that died over the same entry: it was there while they gave signs of life, and their offset did not
-- get past it. Whoever dies with nothing to do does not count, and neither does a clean leave. From the second on an owner
-- counts only if it left word that it had begun (`begun`, its token): it may have died over another partition's entry.
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, life, lease, total = ARGV[1], ARGV[2], tonumber(ARGV[3]), (#KEYS - 1) / 2
redis.call("ZADD", KEYS[1], string.format("%d", now + lease), me)
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", string.format("%d", now))
local alive, rank, is_alive = redis.call("ZRANGE", KEYS[1], 0, -1), 0, {}
for _, member in ipairs(alive) do
  is_alive[member] = true
  if member < me then rank = rank + 1 end
end
local share = 0
if is_alive[me] then share = math.floor(total / #alive) + (rank < total % #alive and 1 or 0) end
-- A later life of mine has a seat: this one is told so, and changes nothing more.
for index = 2, total + 1 do
  local seat = redis.call("HMGET", KEYS[index], "owner", "life")
  if seat[1] == me and seat[2] and seat[2] > life then return redis.error_reply("LATERLIFE " .. seat[2]) end
end
local mine, free = {}, {}
for index = 2, total + 1 do
  local seat = redis.call("HMGET", KEYS[index], "owner", "life")
  if seat[1] == me and seat[2] == life then
    if #mine < share then mine[#mine + 1] = index
    else redis.call("HDEL", KEYS[index], "owner", "due", "tried_at", "tries") end
  elseif not seat[1] or seat[1] == me or not is_alive[seat[1]] then
    -- an earlier life of mine had it, and my share may be full: it must not look as if a living member had it
    if seat[1] == me then redis.call("HDEL", KEYS[index], "owner", "life") end
    free[#free + 1] = index
  end
end
local function tries_from_now(index, offset)
  local last = redis.call("HMGET", KEYS[index], "due", "tried_at", "tries", "begun", "token")
  if not last[1] or last[2] ~= offset then return 1 end
  local tries = tonumber(last[3]) or 1
  if tries > 1 then return last[4] == last[5] and tries + 1 or tries end
  local entry = redis.call("XRANGE", KEYS[index + total], "(" .. offset, "+", "COUNT", 1)[1]
  return entry and tonumber(string.match(entry[1], "%d+")) <= tonumber(last[1]) and 2 or 1
end
for _, index in ipairs(free) do
  if #mine >= share then break end
  local offset = redis.call("HGET", KEYS[index], "offset") or "0"
  redis.call("HSET", KEYS[index], "tried_at", offset, "tries", tries_from_now(index, offset))
  redis.call("HINCRBY", KEYS[index], "token", 1)
  redis.call("HSET", KEYS[index], "owner", me, "life", life)
  mine[#mine + 1] = index
end
local answers = {}
for _, index in ipairs(mine) do
  redis.call("HSET", KEYS[index], "due", string.format("%d", now + ARGV[4]))
  local seat = redis.call("HMGET", KEYS[index], "token", "offset", "tries")
  answers[#answers + 1] = {index - 2, tonumber(seat[1]), seat[2] or "0", tonumber(seat[3]) or 1}
end
return answers
