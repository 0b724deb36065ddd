-- Takes over entries whose holder gave no sign of life for a lease. Called by Consumer's reading.
-- KEYS: 1 stream
-- ARGV: 1 group; 2 consumer; 3 lease in ms; 4 cursor, from '0-0'; 5 how many at most
-- Reply: {cursor to go on from, {id, deliveries, {field, value, ...}} ...}
local claimed = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'COUNT', ARGV[5])
local reply = {claimed[1]}
for _, entry in ipairs(claimed[2]) do
  local row = redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1)
  reply[#reply + 1] = {entry[1], row[1][4], entry[2]}
end
return reply
