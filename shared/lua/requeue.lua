-- Delivers an entry anew that was delivered and yet is in nobody's hands. Called by Mending.requeue (reshelve audit).
-- KEYS: 1 stream
-- ARGV: 1 group; 2 entry id
-- Reply: 1 it is a new entry now | 0 it is gone, not delivered yet or in somebody's hands: nothing was done
local rows = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])
if #rows == 0 or #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1) > 0 then
  return 0
end
local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #info, 2 do
    group[info[i]] = info[i + 1]
  end
  if group['name'] == ARGV[1] then
    local ms, seq = parts(ARGV[2])
    local last_ms, last_seq = parts(group['last-delivered-id'])
    if ms < last_ms or (ms == last_ms and seq <= last_seq) then
      redis.call('XADD', KEYS[1], '*', unpack(rows[1][2]))
      redis.call('XDEL', KEYS[1], ARGV[2])
      return 1
    end
  end
end
return 0
