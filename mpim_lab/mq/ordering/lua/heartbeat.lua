-- One member of a group sends its heartbeat, and is assigned its fair share of the partitions.
-- KEYS[1]        zset, members by the time until which each counts as alive    read, write
-- KEYS[2..n+1]   hash, a partition's assignment: owner, life, due, token, begun, offset, tried_at, tries   read, write
-- KEYS[n+2..]    stream, the partition's entries                               read
-- ARGV           member, its incarnation, ms for which it counts as alive (0: it leaves), ms until its next heartbeat is due
-- Returns for each partition it has: {partition, token, offset, tries}.
-- An assignment that changes hands gets a higher fencing token: what the owner before still tries to write is refused
-- (commit.lua). A member that has died and begun anew under the same name is another incarnation (`life`).
-- `tries` counts owners that died over the same entry: it was there while they sent heartbeats, and their offset did not
-- get past it. Whoever dies with nothing to do does not count, and neither does a clean leave. From the second on an owner
-- counts only if it had recorded that it began (`begun`, its token): it may have died over another partition's entry.
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, incarnation, lease, total = ARGV[1], ARGV[2], tonumber(ARGV[3]), (#KEYS - 1) / 2
redis.call("ZADD", KEYS[1], string.format("%d", now + lease), me)
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", string.format("%d", now))
local alive, rank, is_alive = redis.call("ZRANGE", KEYS[1], 0, -1), 0, {}
for _, member in ipairs(alive) do
  is_alive[member] = true
  if member < me then rank = rank + 1 end
end
local share = 0
if is_alive[me] then share = math.floor(total / #alive) + (rank < total % #alive and 1 or 0) end
-- A later incarnation of mine has an assignment: this one gets an error, and changes nothing more.
for index = 2, total + 1 do
  local held = redis.call("HMGET", KEYS[index], "owner", "life")
  if held[1] == me and held[2] and held[2] > incarnation then return redis.error_reply("SUPERSEDED " .. held[2]) end
end
local mine, free = {}, {}
for index = 2, total + 1 do
  local assignment = redis.call("HMGET", KEYS[index], "owner", "life")
  if assignment[1] == me and assignment[2] == incarnation then
    if #mine < share then mine[#mine + 1] = index
    else redis.call("HDEL", KEYS[index], "owner", "due", "tried_at", "tries") end
  elseif not assignment[1] or assignment[1] == me or not is_alive[assignment[1]] then
    -- an earlier incarnation of mine had it, and my share may be full: it must not look as if a living member had it
    if assignment[1] == me then redis.call("HDEL", KEYS[index], "owner", "life") end
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
  redis.call("HSET", KEYS[index], "owner", me, "life", incarnation)
  mine[#mine + 1] = index
end
local answers = {}
for _, index in ipairs(mine) do
  redis.call("HSET", KEYS[index], "due", string.format("%d", now + ARGV[4]))
  local assignment = redis.call("HMGET", KEYS[index], "token", "offset", "tries")
  answers[#answers + 1] = {index - 2, tonumber(assignment[1]), assignment[2] or "0", tonumber(assignment[3]) or 1}
end
return answers
