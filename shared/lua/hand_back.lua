-- Gives entries back untouched: anybody may take them over at once. Called by Consumer.hand_back.
-- KEYS: 1 stream
-- ARGV: 1 group; 2 consumer; 3 lease in ms; then entry ids
-- Reply: how many were given back
local returned = 0
for i = 4, #ARGV do
  local id = ARGV[i]
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2]) == 1 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'IDLE', ARGV[3], 'JUSTID')
    returned = returned + 1
  end
end
return returned
