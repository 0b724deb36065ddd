-- Reads what is held of contents that were claimed. Called by Reviews.look (planner).
-- KEYS: 1 counts; then one content per item
-- ARGV: 1 number of field names; then these; then the cids, some thousand at most
-- Reply: per item the fields' values, and what `counts` holds
local fields = tonumber(ARGV[1])
local counts = redis.call('HMGET', KEYS[1], unpack(ARGV, 2 + fields))
local reply = {}
for i = 2, #KEYS do
  local state = redis.call('HMGET', KEYS[i], unpack(ARGV, 2, 1 + fields))
  state[fields + 1] = counts[i - 1]
  reply[i - 1] = state
end
return reply
