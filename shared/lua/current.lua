-- Tells which attempts are still their contents' latest; changes nothing. Called by Moves.current (mover).
-- KEYS: one content per item
-- ARGV: per item: move_id, attempt
-- Reply: per item 1 it is the latest | 0 the content has moved on
local reply = {}
for i = 1, #KEYS do
  local state = redis.call('HMGET', KEYS[i], 'move_id', 'attempt')
  reply[i] = state[1] == ARGV[2 * i - 1] and state[2] == ARGV[2 * i] and 1 or 0
end
return reply
