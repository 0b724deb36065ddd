-- Takes due reviews for a while: whoever dies with them leaves them to be taken again. Called by Reviews.claim (planner).
-- KEYS: 1 review
-- ARGV: 1 how many at most; 2 for how long, in ms
-- Reply: cids
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local cids = redis.call('ZRANGE', KEYS[1], '-inf', string.format('%.0f', now), 'BYSCORE', 'LIMIT', 0, ARGV[1])
local again = string.format('%.0f', now + tonumber(ARGV[2]))
-- Some at a time: a call takes no more values than fit on the stack.
for first = 1, #cids, 1000 do
  local scores = {}
  for i = first, math.min(first + 999, #cids) do
    scores[#scores + 1] = again
    scores[#scores + 1] = cids[i]
  end
  redis.call('ZADD', KEYS[1], 'XX', unpack(scores))
end
return cids
