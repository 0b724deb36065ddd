-- Puts entries whose time has come back onto their streams. Called by Moves.due (mover).
-- KEYS: 1 later; 2 moves stream; 3 retires stream
-- ARGV: 1 how many at most
-- Reply: how many were put back
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local members = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])
local streams = {moves = KEYS[2], retires = KEYS[3]}
for _, member in ipairs(members) do
  local entry = cjson.decode(member)
  redis.call('XADD', streams[entry[1]], '*', unpack(entry, 2))
  redis.call('ZREM', KEYS[1], member)
end
return #members
