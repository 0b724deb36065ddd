-- Drops reviews of contents whose relocation is open or has failed: settling or a retry asks again. Called by Reviews.dismiss (planner).
-- KEYS: 1 review; then one content per item
-- ARGV: per item: cid, version that was looked at
-- Reply: per item 1 dropped | 0 changed since, the review stays
local reply = {}
for i = 2, #KEYS do
  local cid, version = ARGV[2 * i - 3], ARGV[2 * i - 2]
  if (redis.call('HGET', KEYS[i], 'version') or '0') == version then
    redis.call('ZREM', KEYS[1], cid)
    reply[#reply + 1] = 1
  else
    reply[#reply + 1] = 0
  end
end
return reply
