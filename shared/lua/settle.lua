-- Settles contents whose source is gone: retiring -> idle, up for review. Called by Moves.settle (mover).
-- KEYS: 1 retires stream; 2 review; then one content per item
-- ARGV: 1 group; 2 ms within which a way back is a flip-flop; then per item: entry id, cid, move_id, attempt,
--       level that it came from
-- Reply: per item 1 settled | 2 settled, and back on the level that it had left within that time
--      | 0 refused: the attempt is stale or the content was settled, nothing was done
local time = redis.call('TIME')
local ms = time[1] * 1000 + math.floor(time[2] / 1000)
local now = string.format('%.0f', ms)
local window = tonumber(ARGV[2])
local reply, handled, reviews, at = {}, {}, {}, 2
for i = 3, #KEYS do
  local id, cid, move_id, attempt, source = unpack(ARGV, at + 1, at + 5)
  at = at + 5
  local state = redis.call('HMGET', KEYS[i], 'move_id', 'attempt', 'status', 'level', 'came_from', 'moved_at',
    'version')
  -- Whoever handles the entry changes one of these: XACK has no say in it, and does for all at once below.
  if state[1] == move_id and state[2] == attempt and state[3] == 'retiring' then
    handled[#handled + 1] = id
    reviews[#reviews + 1] = now
    reviews[#reviews + 1] = cid
    redis.call('HSET', KEYS[i], 'status', 'idle', 'moved_at', now, 'came_from', source,
      'version', (tonumber(state[7]) or 0) + 1)
    redis.call('HDEL', KEYS[i], 'move_id', 'target', 'worker_id', 'attempt', 'error')
    local back = state[5] and state[5] == state[4] and ms - (tonumber(state[6]) or 0) < window
    reply[#reply + 1] = back and 2 or 1
  else
    reply[#reply + 1] = 0
  end
end
-- Some at a time: a call takes no more values than fit on the stack.
for first = 1, #handled, 1000 do
  local last = math.min(first + 999, #handled)
  redis.call('XACK', KEYS[1], ARGV[1], unpack(handled, first, last))
  redis.call('XDEL', KEYS[1], unpack(handled, first, last))
  redis.call('ZADD', KEYS[2], unpack(reviews, 2 * first - 1, 2 * last))
end
return reply
