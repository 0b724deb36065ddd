-- Opens relocations: idle -> update. Called by Reviews.open (planner).
-- KEYS: 1 review; 2 moves stream; then one content per item
-- ARGV: 1 how many values the flat move message has; 2 largest count; then per item: cid, version that was decided on,
--       level, filename, base to add to the count, move_id, target, why, the flat move message
-- Reply: per item 1 opened | 0 the content changed since it was looked at, nothing was done
local size, largest = tonumber(ARGV[1]), tonumber(ARGV[2])
local reply, opened, at = {}, {}, 2
for i = 3, #KEYS do
  local key = KEYS[i]
  local cid, version, level, filename, base = unpack(ARGV, at + 1, at + 5)
  local move_id, target, why = unpack(ARGV, at + 6, at + 8)
  local state = redis.call('HMGET', key, 'version', 'status', 'level', 'count', 'absolute')
  local status = state[2]
  if (state[1] or '0') == version and (not status or status == 'idle' or status == 'unknown') then
    -- A total that was tallied since the look at it needs no base.
    if not state[3] and not state[5] and base ~= '0' then
      local count = math.min((tonumber(state[4]) or 0) + tonumber(base), largest)
      redis.call('HSET', key, 'count', string.format('%.0f', count))
    end
    redis.call('HSET', key, 'level', level, 'filename', filename, 'status', 'update', 'move_id', move_id,
      'target', target, 'why', why, 'attempt', '0', 'version', tonumber(version) + 1)
    redis.call('HDEL', key, 'lo', 'hi', 'absolute', 'worker_id', 'error')
    if status == 'unknown' then
      redis.call('PERSIST', key)
    end
    opened[#opened + 1] = cid
    redis.call('XADD', KEYS[2], '*', unpack(ARGV, at + 9, at + 8 + size))
    reply[#reply + 1] = 1
  else
    reply[#reply + 1] = 0
  end
  at = at + 8 + size
end
-- Some at a time: a call takes no more values than fit on the stack.
for first = 1, #opened, 1000 do
  redis.call('ZREM', KEYS[1], unpack(opened, first, math.min(first + 999, #opened)))
end
return reply
