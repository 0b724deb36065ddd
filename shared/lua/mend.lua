-- Makes a content idle whose relocation nobody will ever move on, and puts it up for review. Called by Mending.mend (reshelve audit).
-- KEYS: 1 content; 2 review
-- ARGV: 1 cid; then what was looked at: 2 version, 3 status, 4 move_id, 5 attempt, 6 worker_id; then what the catalog says:
--       7 level, 8 filename, both '' where it does not name the content
-- Reply: 1 mended | 0 changed since it was looked at, nothing was done
local state = redis.call('HMGET', KEYS[1], 'version', 'status', 'move_id', 'attempt', 'worker_id')
if (state[1] or '0') ~= ARGV[2] or (state[2] or '') ~= ARGV[3] or (state[3] or '') ~= ARGV[4]
  or (state[4] or '0') ~= ARGV[5] or (state[5] or '') ~= ARGV[6] then
  return 0
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', KEYS[1], 'status', 'idle')
if ARGV[7] ~= '' then
  redis.call('HSET', KEYS[1], 'level', ARGV[7], 'filename', ARGV[8])
end
redis.call('HDEL', KEYS[1], 'move_id', 'target', 'worker_id', 'attempt', 'error')
redis.call('HINCRBY', KEYS[1], 'version', 1)
redis.call('ZADD', KEYS[2], now, ARGV[1])
return 1
