-- Looks at a page of a work stream and changes nothing. Called by Mending (reshelve audit).
-- KEYS: 1 stream
-- ARGV: 1 group; 2 where to begin: '-', an id, or '(' and the last id of the page before; 3 how many at most
-- Reply: {{id, cid or '', move_id or '', 1 where it was delivered and yet is in nobody's hands, else 0} ...}
local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local rows = redis.call('XRANGE', KEYS[1], ARGV[2], '+', 'COUNT', ARGV[3])
if #rows == 0 then
  return {}
end
local last_ms, last_seq
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #info, 2 do
    group[info[i]] = info[i + 1]
  end
  if group['name'] == ARGV[1] then
    last_ms, last_seq = parts(group['last-delivered-id'])
  end
end
local pending = {}
-- Without the group nothing was delivered: it is made anew from 0.
if last_ms then
  for _, row in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], rows[1][1], rows[#rows][1], 100000)) do
    pending[row[1]] = true
  end
end
local reply = {}
for i, row in ipairs(rows) do
  local ms, seq = parts(row[1])
  local delivered = last_ms and (ms < last_ms or (ms == last_ms and seq <= last_seq))
  local fields = {}
  for j = 1, #row[2], 2 do
    fields[row[2][j]] = row[2][j + 1]
  end
  reply[i] = {row[1], fields['cid'] or '', fields['move_id'] or '', (delivered and not pending[row[1]]) and 1 or 0}
end
return reply
