-- Claim ids for one worker each, for as long as a lease lasts.
-- KEYS[1]    string, the scope's fencing tokens: the last one given       read, write
-- KEYS[2..]  hash, an id's record: state, token, until, result             read, write
-- ARGV       lease in ms, lifetime (TTL) of a record in ms
-- Returns for each id: {"mine", token}, {"busy", ms until the lease ends} or {"done", the first result}.
-- Time is the server's, so that workers whose clocks differ agree on when a lease is over.
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answers = {}
for index = 2, #KEYS do
  local record = redis.call("HMGET", KEYS[index], "state", "until", "result")
  if record[1] == "done" then
    answers[#answers + 1] = {"done", record[3]}
  elseif record[1] == "claimed" and tonumber(record[2]) > now then
    answers[#answers + 1] = {"busy", tonumber(record[2]) - now}
  else
    local token = redis.call("INCR", KEYS[1])
    redis.call("HSET", KEYS[index], "state", "claimed", "token", token, "until", string.format("%d", now + ARGV[1]))
    redis.call("PEXPIRE", KEYS[index], ARGV[2])
    answers[#answers + 1] = {"mine", token}
  end
end
return answers
