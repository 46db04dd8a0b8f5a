-- Complete claimed ids: for each whose claim still stands, its effects and its record in one atomic step.
-- KEYS[1..n]  hash, an id's record: state, token, until, result            read, write
-- KEYS[n+1..] the keys of the effects, in their order                      write
-- ARGV        n, lifetime (TTL) of a record in ms; then for each id: token, result, its effects (see effects.lua)
-- Returns for each id: {"done", result}, {"repeat", the first result}, {"lost", ""} when somebody else has it,
-- or {"failed", why} when an effect was refused: then the claim still stands.
-- The effects, which can fail, come before the record, which cannot.
local count, ttl = tonumber(ARGV[1]), ARGV[2]
local at, key, answers = 3, count + 1, {}
for index = 1, count do
  local record = redis.call("HMGET", KEYS[index], "state", "token", "result")
  local token, result = ARGV[at], ARGV[at + 1]
  local next_at, next_key = after_effects(at + 2, key)
  if record[1] == "done" then
    answers[index] = {"repeat", record[3]}
  elseif record[1] ~= "claimed" or record[2] ~= token then
    answers[index] = {"lost", ""}
  else
    local problem = try_effects(at + 2, key)
    if problem then
      answers[index] = {"failed", problem}
    else
      redis.call("HSET", KEYS[index], "state", "done", "result", result)
      redis.call("PEXPIRE", KEYS[index], ttl)
      answers[index] = {"done", result}
    end
  end
  at, key = next_at, next_key
end
return answers
