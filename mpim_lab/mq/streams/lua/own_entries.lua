-- Which of a consumer's entries are still its own: in its name, and delivered as often as it knows. Whoever else was given
-- one since, a later life of the same name too, has made the count higher. They are claimed once more, with these options.
local function claim_own(stream, group, consumer, first, ...)
  local words = {}
  for at = first, #ARGV, 2 do
    local line = redis.call("XPENDING", stream, group, ARGV[at], ARGV[at], 1, consumer)[1]
    if line and line[4] == tonumber(ARGV[at + 1]) then words[#words + 1] = ARGV[at] end
  end
  if #words == 0 then return {} end
  for _, option in ipairs({...}) do words[#words + 1] = option end
  return redis.call("XCLAIM", stream, group, consumer, 0, unpack(words))
end
