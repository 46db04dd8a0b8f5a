-- Give a claim up, so that the next attempt need not wait for the lease to end.
-- KEYS[1]  hash, an id's mark: state, token, until, result                 read, write
-- ARGV     token
-- Gives 1; 0 when the claim was somebody else's already.
local mark = redis.call("HMGET", KEYS[1], "state", "token")
if mark[1] ~= "claimed" or mark[2] ~= ARGV[1] then return 0 end
redis.call("DEL", KEYS[1])
return 1
