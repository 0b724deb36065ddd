-- Follows MySQL's commit: done -> retiring, and orders the source's removal. Called by Commits.commit (recorder).
-- KEYS: 1 placed stream; 2 retires stream; 3 later; 4 review; then one content per item
-- ARGV: 1 group; 2 ms when the retires may start, or 0; then per item: entry id, cid, move_id, level, the entry's body
-- Reply: per item 1 committed | 2 committed, but the state had moved on: it is reviewed, nothing is retired
--      | 0 the entry was handled, nothing was done
-- What a command takes is mostly its values, of which each is an object that lives until the script's end.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local group, start = ARGV[1], ARGV[2]
local is_early = tonumber(start) > now
local reply, handled, at = {}, {}, 2
for i = 5, #KEYS do
  local id, cid, move_id, level, body = unpack(ARGV, at + 1, at + 5)
  at = at + 5
  if redis.call('XACK', KEYS[1], group, id) == 0 then
    reply[#reply + 1] = 0
  else
    handled[#handled + 1] = id
    local state = redis.call('HMGET', KEYS[i], 'move_id', 'version')
    if state[1] == move_id then
      -- An empty worker_id is none; settle removes the field.
      redis.call('HSET', KEYS[i], 'level', level, 'status', 'retiring', 'attempt', '0', 'worker_id', '',
        'version', (tonumber(state[2]) or 0) + 1)
      if is_early then
        redis.call('ZADD', KEYS[3], start, cjson.encode({'retires', 'move_id', move_id, 'cid', cid, 'body', body,
          'not_before', start}))
      else
        redis.call('XADD', KEYS[2], '*', 'move_id', move_id, 'cid', cid, 'body', body, 'not_before', start)
      end
      reply[#reply + 1] = 1
    else
      redis.call('ZADD', KEYS[4], string.format('%.0f', now), cid)
      reply[#reply + 1] = 2
    end
  end
end
-- Some at a time: a call takes no more values than fit on the stack.
for first = 1, #handled, 1000 do
  redis.call('XDEL', KEYS[1], unpack(handled, first, math.min(first + 999, #handled)))
end
return reply
