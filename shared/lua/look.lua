-- Reads what is known of contents that were claimed. Called by Reviews.look (planner).
-- KEYS: one content per item
-- ARGV: field names
-- Reply: per item the fields' values
local reply = {}
for i = 1, #KEYS do
  reply[i] = redis.call('HMGET', KEYS[i], unpack(ARGV))
end
return reply
