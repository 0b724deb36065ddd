-- Puts entries whose time has come back onto their streams. Called by Moves.due (mover).
-- KEYS: 1 later; 2 moves stream; 3 retires stream; 4 dead
-- ARGV: 1 how many at most
-- Reply: how many were taken out; one that is no entry of ours became a dead letter, so that it holds nothing up
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local members = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])
local streams = {moves = KEYS[2], retires = KEYS[3]}

-- What is wrong with it; nil where XADD will take it.
local function fault(entry)
  if type(entry) ~= 'table' or not streams[entry[1]] then
    return 'not an array that begins with moves or retires'
  elseif #entry < 3 or #entry % 2 == 0 or #entry > 2001 then
    return 'not 1 to 1000 fields, each with its value'
  end
  for _, part in ipairs(entry) do
    if type(part) ~= 'string' then
      return 'a field or value is no text'
    end
  end
end

for _, member in ipairs(members) do
  local sound, entry = pcall(cjson.decode, member)
  local wrong = not sound and 'not JSON' or fault(entry)
  if wrong then
    redis.call('XADD', KEYS[4], '*', 'origin', 'later', 'reason', 'undecodable', 'detail', wrong, 'attempts', '0',
      'died_at', now, 'entry_id', '', 'f:member', member)
  else
    redis.call('XADD', streams[entry[1]], '*', unpack(entry, 2))
  end
  redis.call('ZREM', KEYS[1], member)
end
return #members
