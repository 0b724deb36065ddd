-- Starts attempts at moves or retires and hands out their fencing tokens. Called by Moves.start (mover).
-- KEYS: 1 moves or retires stream; then one content per item
-- ARGV: 1 group; 2 consumer; 3 status that the content gets, 'moving' or 'retiring'; then per item: entry id, move_id
-- Reply: per item the attempt, from 1 | 0 obsolete: the content has moved on, the entry was dropped
--      | -1 the entry is not this consumer's, nothing was done
local group, consumer, to = ARGV[1], ARGV[2], ARGV[3]
local from = to == 'moving' and {update = true, moving = true} or {retiring = true}
local mine = {}
if #KEYS == 2 then
  mine[ARGV[4]] = #redis.call('XPENDING', KEYS[1], group, ARGV[4], ARGV[4], 1, consumer) == 1
else
  for _, row in ipairs(redis.call('XPENDING', KEYS[1], group, '-', '+', 10000, consumer)) do
    mine[row[1]] = true
  end
end
local reply = {}
for i = 2, #KEYS do
  local id, move_id = ARGV[2 * i], ARGV[2 * i + 1]
  if not mine[id] then
    reply[#reply + 1] = -1
  else
    local state = redis.call('HMGET', KEYS[i], 'move_id', 'status', 'attempt')
    if state[1] == move_id and from[state[2]] then
      local attempt = (tonumber(state[3]) or 0) + 1
      redis.call('HSET', KEYS[i], 'status', to, 'worker_id', consumer, 'attempt', attempt)
      reply[#reply + 1] = attempt
    else
      redis.call('XACK', KEYS[1], group, id)
      redis.call('XDEL', KEYS[1], id)
      reply[#reply + 1] = 0
    end
  end
end
return reply
