-- Finish claimed ids: for each whose claim still stands, its effects and its mark in one step.
-- KEYS[1..n]  hash, an id's mark: state, token, until, result              read, write
-- KEYS[n+1..] the keys of the effects, in their order                      write
-- ARGV        n, lifetime of a mark in ms; then for each id: token, result, its effects (see effects.lua)
-- Gives for each id: {"done", result}, {"repeat", the first result}, {"lost", ""} when somebody else has it,
-- or {"failed", why} when an effect was refused: then the claim still stands.
-- The effects, which can fail, come before the mark, which cannot.
local count, keep = tonumber(ARGV[1]), ARGV[2]
local at, key, answers = 3, count + 1, {}
for index = 1, count do
  local mark = redis.call("HMGET", KEYS[index], "state", "token", "result")
  local token, result = ARGV[at], ARGV[at + 1]
  local next_at, next_key = after_effects(at + 2, key)
  if mark[1] == "done" then
    answers[index] = {"repeat", mark[3]}
  elseif mark[1] ~= "claimed" or mark[2] ~= token then
    answers[index] = {"lost", ""}
  else
    local problem = try_effects(at + 2, key)
    if problem then
      answers[index] = {"failed", problem}
    else
      redis.call("HSET", KEYS[index], "state", "done", "result", result)
      redis.call("PEXPIRE", KEYS[index], keep)
      answers[index] = {"done", result}
    end
  end
  at, key = next_at, next_key
end
return answers
