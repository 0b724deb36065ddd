-- Gives an entry up: keeps it as a dead letter. Called by DeadLetters.bury (every service).
-- KEYS: 1 stream; 2 dead; 3 content, where the entry belongs to one
-- ARGV: 1 group; 2 entry id; 3 origin (the stream's name); 4 reason; 5 detail; 6 attempts; 7 move_id; 8 attempt or ''
--       for any; then the entry's fields, flat
-- Reply: 1 buried | 0 refused: the attempt is stale or the entry was handled, nothing was done
if KEYS[3] then
  local state = redis.call('HMGET', KEYS[3], 'move_id', 'attempt')
  if state[1] ~= ARGV[7] or (ARGV[8] ~= '' and state[2] ~= ARGV[8]) then
    return 0
  end
end
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then
  return 0
end
redis.call('XDEL', KEYS[1], ARGV[2])
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local letter = {'origin', ARGV[3], 'reason', ARGV[4], 'detail', ARGV[5], 'attempts', ARGV[6], 'died_at', now, 'entry_id', ARGV[2]}
-- The original fields keep their names behind a prefix, so that none can pass for the letter's own.
for i = 9, math.min(#ARGV, 2008), 2 do
  letter[#letter + 1] = 'f:' .. ARGV[i]
  letter[#letter + 1] = ARGV[i + 1]
end
redis.call('XADD', KEYS[2], '*', unpack(letter))
if KEYS[3] then
  redis.call('HSET', KEYS[3], 'status', 'failed', 'error', ARGV[4] .. (ARGV[5] ~= '' and ': ' .. ARGV[5] or ''))
  redis.call('HDEL', KEYS[3], 'worker_id')
  redis.call('HINCRBY', KEYS[3], 'version', 1)
end
return 1
