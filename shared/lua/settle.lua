-- Settles contents whose source is gone: retiring -> idle, up for review. Called by Moves.settle (mover).
-- KEYS: 1 retires stream; 2 review; then one content per item
-- ARGV: 1 group; then per item: entry id, cid, move_id, attempt
-- Reply: per item 1 settled | 0 refused: the attempt is stale or the entry was handled, nothing was done
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local reply, at = {}, 1
for i = 3, #KEYS do
  local id, cid, move_id, attempt = unpack(ARGV, at + 1, at + 4)
  at = at + 4
  local state = redis.call('HMGET', KEYS[i], 'move_id', 'attempt', 'status')
  if state[1] == move_id and state[2] == attempt and state[3] == 'retiring'
    and redis.call('XACK', KEYS[1], ARGV[1], id) == 1 then
    redis.call('XDEL', KEYS[1], id)
    redis.call('HSET', KEYS[i], 'status', 'idle', 'moved_at', now)
    redis.call('HDEL', KEYS[i], 'move_id', 'target', 'worker_id', 'attempt', 'error')
    redis.call('HINCRBY', KEYS[i], 'version', 1)
    redis.call('ZADD', KEYS[2], now, cid)
    reply[#reply + 1] = 1
  else
    reply[#reply + 1] = 0
  end
end
return reply
