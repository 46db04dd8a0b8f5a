-- Shared by the scripts that run a step's effects: commands that must happen together with the step's record, or none.
-- In ARGV, from `at` on: how many; then for each: how many words, the command, its further words. Its key is the next of KEYS.
local function after_effects(at, key)
  local count = tonumber(ARGV[at])
  at = at + 1
  for _ = 1, count do at = at + 1 + tonumber(ARGV[at]) end
  return at, key + count
end
local function run_effects(at, key)
  local count = tonumber(ARGV[at])
  at = at + 1
  for index = 1, count do
    local words = tonumber(ARGV[at])
    call(ARGV[at + 1], KEYS[key + index - 1], ARGV, at + 2, at + words)
    at = at + 1 + words
  end
end
-- What went wrong, as text; false if nothing did.
local function try_effects(at, key)
  local fine, problem = pcall(run_effects, at, key)
  if fine then return false end
  return type(problem) == "table" and problem.err or tostring(problem)
end
