-- Opens relocations: idle -> update. Called by Reviews.open (planner).
-- KEYS: 1 review; 2 moves stream; 3 counts; then one content per item, 2000 at most
-- ARGV: 1 how many values the flat move message has; 2 largest count; then per item: cid, version that was decided on,
--       level, filename, base to add to the count, move_id, target, why, the flat move message
-- Reply: per item 1 opened | 0 the content changed since it was looked at, nothing was done
local size, largest = tonumber(ARGV[1]), tonumber(ARGV[2])
local cids = {}
for i = 4, #KEYS do
  cids[#cids + 1] = ARGV[3 + (i - 4) * (8 + size)]
end
local held = redis.call('HMGET', KEYS[3], unpack(cids))
local reply, opened, counts, at = {}, {}, {}, 2
for i = 4, #KEYS do
  local key = KEYS[i]
  local cid, version, level, filename, base = unpack(ARGV, at + 1, at + 5)
  local move_id, target, why = unpack(ARGV, at + 6, at + 8)
  local state = redis.call('HMGET', key, 'version', 'status', 'level', 'worker_id', 'error', 'since')
  local status = state[2]
  if (state[1] or '0') == version and (not status or status == 'idle' or status == 'unknown') then
    local count, viewed, mark = string.match(held[i - 3] or '', '^(%d+) (%d+)(.*)$')
    count = tonumber(count) or 0
    -- A total that was tallied since the look at it needs no base.
    if not state[3] and (mark or '') == '' then
      count = math.min(count + tonumber(base), largest)
    end
    counts[#counts + 1] = cid
    counts[#counts + 1] = string.format('%.0f %s -', count, viewed or '0')
    redis.call('HSET', key, 'level', level, 'filename', filename, 'status', 'update', 'move_id', move_id,
      'target', target, 'why', why, 'attempt', '0', 'version', tonumber(version) + 1)
    if state[4] or state[5] or state[6] then
      redis.call('HDEL', key, 'worker_id', 'error', 'since')
    end
    opened[#opened + 1] = cid
    redis.call('XADD', KEYS[2], '*', unpack(ARGV, at + 9, at + 8 + size))
    reply[#reply + 1] = 1
  else
    reply[#reply + 1] = 0
  end
  at = at + 8 + size
end
if #opened > 0 then
  redis.call('HSET', KEYS[3], unpack(counts))
  redis.call('ZREM', KEYS[1], unpack(opened))
end
return reply
