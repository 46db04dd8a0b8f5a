-- Release a claim, so that the next attempt need not wait for the lease to end.
-- KEYS[1]  hash, an id's record: state, token, until, result               read, write
-- ARGV     token
-- Returns 1; 0 when the claim was somebody else's already.
local record = redis.call("HMGET", KEYS[1], "state", "token")
if record[1] ~= "claimed" or record[2] ~= ARGV[1] then return 0 end
redis.call("DEL", KEYS[1])
return 1
