-- Follows MySQL's commit: done -> retiring, and orders the source's removal. Called by Commits.commit (recorder).
-- KEYS: 1 placed stream; 2 retires stream; 3 later; 4 review; then one content per item
-- ARGV: 1 group; 2 ms when the retires may start, or 0; then per item: entry id, cid, move_id, level, the entry's body
-- Reply: per item 1 committed | 2 committed, but the state had moved on: it is reviewed, nothing is retired
--      | 0 the entry was handled, nothing was done
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local group, start = ARGV[1], ARGV[2]
local is_early = tonumber(start) > now
local reply, handled, at = {}, {}, 2

local function order_retire(key, version, cid, move_id, level, body)
  -- An empty worker_id is none; settle removes the field.
  redis.call('HSET', key, 'level', level, 'status', 'retiring', 'attempt', '0', 'worker_id', '',
    'version', (tonumber(version) or 0) + 1)
  if is_early then
    redis.call('ZADD', KEYS[3], start, cjson.encode({'retires', 'move_id', move_id, 'cid', cid, 'body', body,
      'not_before', start}))
  else
    redis.call('XADD', KEYS[2], '*', 'move_id', move_id, 'cid', cid, 'body', body, 'not_before', start)
  end
end

for i = 5, #KEYS do
  local id, cid, move_id, level, body = unpack(ARGV, at + 1, at + 5)
  at = at + 5
  local state = redis.call('HMGET', KEYS[i], 'move_id', 'version', 'status')
  local is_its = state[1] == move_id
  if is_its and state[3] == 'done' then
    -- Whoever handles the entry changes one of these: XACK has no say in it, and does for all at once below.
    handled[#handled + 1] = id
    order_retire(KEYS[i], state[2], cid, move_id, level, body)
    reply[#reply + 1] = 1
  elseif redis.call('XACK', KEYS[1], group, id) == 0 then
    reply[#reply + 1] = 0
  else
    handled[#handled + 1] = id
    if is_its and state[3] ~= 'retiring' then
      order_retire(KEYS[i], state[2], cid, move_id, level, body)
    elseif not is_its then
      redis.call('ZADD', KEYS[4], string.format('%.0f', now), cid)
    end
    reply[#reply + 1] = is_its and 1 or 2
  end
end
-- Some at a time: a call takes no more values than fit on the stack.
for first = 1, #handled, 1000 do
  local last = math.min(first + 999, #handled)
  redis.call('XACK', KEYS[1], group, unpack(handled, first, last))
  redis.call('XDEL', KEYS[1], unpack(handled, first, last))
end
return reply
