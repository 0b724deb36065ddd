-- Puts a failed attempt aside until its time comes; it holds no consumer meanwhile. Called by Moves.postpone (mover).
-- KEYS: 1 moves or retires stream; 2 later; 3 content
-- ARGV: 1 group; 2 entry id; 3 move_id; 4 attempt; 5 ms to wait; 6 the entry as JSON: [stream, field, value, ...]; 7 what went wrong
-- Reply: 1 put aside | 0 refused: the attempt is stale or the entry was handled, nothing was done
local state = redis.call('HMGET', KEYS[3], 'move_id', 'attempt', 'status')
if state[1] ~= ARGV[3] or state[2] ~= ARGV[4] or redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then
  return 0
end
redis.call('XDEL', KEYS[1], ARGV[2])
local time = redis.call('TIME')
local due = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[5])
redis.call('ZADD', KEYS[2], string.format('%.0f', due), ARGV[6])
if state[3] == 'moving' then
  redis.call('HSET', KEYS[3], 'status', 'update')
end
redis.call('HSET', KEYS[3], 'error', ARGV[7])
redis.call('HDEL', KEYS[3], 'worker_id')
return 1
