-- Shared by the scripts that run commands of any number of words: `call(command, key, words, first, last)`.
-- `unpack` gives at most some 8,000 values at once, because a C function may not hold more. A Lua function may: so beyond that
-- the list of arguments grows from its end to its front, 200 values a step (one call can write down some 250).
local function call(command, key, words, first, last)
  if last - first < 7000 then return redis.call(command, key, unpack(words, first, last)) end
  local run, step = function(...) return redis.call(command, key, ...) end, {}
  for index = 0, 199 do step[index + 1] = "words[at+" .. index .. "]" end
  local source = "local words, at, run = ... return function(...) return run(" .. table.concat(step, ",") .. ", ...) end"
  local longer = loadstring(source)
  while last - first >= 7000 do
    run, first = longer(words, first, run), first + 200
  end
  return run(unpack(words, first, last))
end
