-- Follows MySQL's commit: done -> retiring, and orders the source's removal. Called by Commits.commit (recorder).
-- KEYS: 1 placed stream; 2 retires stream; 3 later; 4 review; then one content per item
-- ARGV: 1 group; 2 how many values the flat retire message has; then per item: entry id, cid, move_id, level,
--       ms when the retire may start, or 0, the flat retire message
-- Reply: per item 1 committed | 2 committed, but the state had moved on: it is reviewed, nothing is retired
--      | 0 the entry was handled, nothing was done
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local group, size = ARGV[1], tonumber(ARGV[2])
local reply, handled, at = {}, {}, 2
for i = 5, #KEYS do
  local id, cid, move_id, level, start = unpack(ARGV, at + 1, at + 5)
  if redis.call('XACK', KEYS[1], group, id) == 0 then
    reply[#reply + 1] = 0
  else
    handled[#handled + 1] = id
    local state = redis.call('HMGET', KEYS[i], 'move_id', 'version')
    if state[1] == move_id then
      redis.call('HSET', KEYS[i], 'level', level, 'status', 'retiring', 'attempt', '0',
        'version', (tonumber(state[2]) or 0) + 1)
      redis.call('HDEL', KEYS[i], 'worker_id')
      if tonumber(start) > now then
        redis.call('ZADD', KEYS[3], start, cjson.encode({'retires', unpack(ARGV, at + 6, at + 5 + size)}))
      else
        redis.call('XADD', KEYS[2], '*', unpack(ARGV, at + 6, at + 5 + size))
      end
      reply[#reply + 1] = 1
    else
      redis.call('ZADD', KEYS[4], string.format('%.0f', now), cid)
      reply[#reply + 1] = 2
    end
  end
  at = at + 5 + size
end
-- Some at a time: a call takes no more values than fit on the stack.
for first = 1, #handled, 1000 do
  redis.call('XDEL', KEYS[1], unpack(handled, first, math.min(first + 999, #handled)))
end
return reply
