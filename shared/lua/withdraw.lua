-- Takes moves back that no longer fit the level table: moving -> idle, up for review. Called by Moves.withdraw (mover).
-- KEYS: 1 moves stream; 2 review; 3 content
-- ARGV: 1 group; 2 entry id; 3 cid; 4 move_id; 5 attempt; 6 in how many ms the review is due
-- Reply: 1 withdrawn | 0 refused: the attempt is stale or the entry was handled, nothing was done
local state = redis.call('HMGET', KEYS[3], 'move_id', 'attempt', 'status')
if state[1] ~= ARGV[4] or state[2] ~= ARGV[5] or state[3] ~= 'moving'
  or redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then
  return 0
end
redis.call('XDEL', KEYS[1], ARGV[2])
local time = redis.call('TIME')
local due = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[6])
redis.call('HSET', KEYS[3], 'status', 'idle')
redis.call('HDEL', KEYS[3], 'move_id', 'target', 'why', 'worker_id', 'attempt', 'error')
redis.call('HINCRBY', KEYS[3], 'version', 1)
redis.call('ZADD', KEYS[2], string.format('%.0f', due), ARGV[3])
return 1
