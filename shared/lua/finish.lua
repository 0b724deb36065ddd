-- Finishes moves: moving -> done, and tells the recorder. Called by Moves.finish (mover).
-- KEYS: 1 moves stream; 2 placed stream; then one content per item
-- ARGV: 1 group; 2 how many values the flat placed message has; then per item: entry id, move_id, attempt, the flat message
-- Reply: per item 1 finished | 0 refused: the attempt is stale or the move was finished, nothing was done
local group, size = ARGV[1], tonumber(ARGV[2])
local reply, handled, at = {}, {}, 2
for i = 3, #KEYS do
  local id, move_id, attempt = unpack(ARGV, at + 1, at + 3)
  local state = redis.call('HMGET', KEYS[i], 'move_id', 'attempt', 'status', 'error')
  -- Whoever handles the entry changes one of these: XACK has no say in it, and does for all at once below.
  if state[1] == move_id and state[2] == attempt and state[3] == 'moving' then
    handled[#handled + 1] = id
    redis.call('XADD', KEYS[2], '*', unpack(ARGV, at + 4, at + 3 + size))
    redis.call('HSET', KEYS[i], 'status', 'done')
    if state[4] then
      redis.call('HDEL', KEYS[i], 'error')
    end
    reply[#reply + 1] = 1
  else
    reply[#reply + 1] = 0
  end
  at = at + 3 + size
end
-- Some at a time: a call takes no more values than fit on the stack.
for first = 1, #handled, 1000 do
  local last = math.min(first + 999, #handled)
  redis.call('XACK', KEYS[1], group, unpack(handled, first, last))
  redis.call('XDEL', KEYS[1], unpack(handled, first, last))
end
return reply
