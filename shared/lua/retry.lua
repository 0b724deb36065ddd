-- Puts a dead letter back onto its stream: failed -> update, done or retiring. Called by DeadLetterQueue.retry (operator).
-- KEYS: 1 dead; 2 stream that the letter came from; 3 content, where the letter belongs to one
-- ARGV: 1 letter id; 2 origin (the stream's name); 3 the letter's move_id, or ''; 4 the field for attempts that do not count
-- Reply: {'retried', entry id} | {'gone'}: there is no such letter | {'moved on', the content's move_id, its status}
--      In the last two cases nothing was done.
local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then
  return {'gone'}
end
-- Burying what could not be decoded, or killed its consumers, leaves the status as it was.
local from = {
  moves = {failed = true, update = true, moving = true},
  placed = {failed = true, done = true},
  retires = {failed = true, retiring = true},
}
local to = {moves = 'update', placed = 'done', retires = 'retiring'}
local attempt
if KEYS[3] then
  local state = redis.call('HMGET', KEYS[3], 'move_id', 'status', 'attempt')
  if state[1] ~= ARGV[3] or not from[ARGV[2]][state[2]] then
    return {'moved on', state[1] or '', state[2] or ''}
  end
  attempt = state[3]
end
local fields = {}
for i = 1, #letter[2], 2 do
  local name = letter[2][i]
  if string.sub(name, 1, 2) == 'f:' and not (attempt and name == 'f:' .. ARGV[4]) then
    fields[#fields + 1] = string.sub(name, 3)
    fields[#fields + 1] = letter[2][i + 1]
  end
end
if attempt and ARGV[2] ~= 'placed' then
  -- The content's attempt is the fencing token: at 0 again, it would fit a mover that was given up on. Instead the
  -- entry says that the attempts until now do not count.
  fields[#fields + 1] = ARGV[4]
  fields[#fields + 1] = attempt
end
local entry = redis.call('XADD', KEYS[2], '*', unpack(fields))
redis.call('XDEL', KEYS[1], ARGV[1])
if KEYS[3] then
  redis.call('HSET', KEYS[3], 'status', to[ARGV[2]])
  redis.call('HDEL', KEYS[3], 'worker_id', 'error')
  redis.call('HINCRBY', KEYS[3], 'version', 1)
end
return {'retried', entry}
