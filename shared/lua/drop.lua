-- Drops a dead letter and brings its content to rest: failed -> idle. Called by DeadLetterQueue.drop (operator).
-- KEYS: 1 dead; 2 content, where the letter belongs to one; 3 counts, with it
-- ARGV: 1 letter id; 2 origin (the stream's name); 3 the letter's move_id, or ''; 4 the content's cid, or ''
-- Reply: 'rests' dropped, the content is idle | 'dropped' alone: it has no content, or that has moved on
--      | 'gone' there is no such letter, nothing was done
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then
  return 'gone'
end
-- Burying what could not be decoded, or killed its consumers, leaves the status as it was.
local from = {
  moves = {failed = true, update = true, moving = true},
  placed = {failed = true, done = true},
  retires = {failed = true, retiring = true},
}
if not KEYS[2] then
  return 'dropped'
end
local state = redis.call('HMGET', KEYS[2], 'move_id', 'status')
if state[1] ~= ARGV[3] or not from[ARGV[2]][state[2]] then
  return 'dropped'
end
redis.call('HSET', KEYS[2], 'status', 'idle')
redis.call('HDEL', KEYS[2], 'move_id', 'target', 'worker_id', 'attempt', 'error')
-- Without a band the next view asks for a review; asking at once would only fail again.
local counted = string.match(redis.call('HGET', KEYS[3], ARGV[4]) or '', '^%d+ %d+')
if counted then
  redis.call('HSET', KEYS[3], ARGV[4], counted .. ' =')
end
redis.call('HINCRBY', KEYS[2], 'version', 1)
return 'rests'
