-- Takes over entries whose holder gave no sign of life for a lease. Called by Reclaiming (every consumer).
-- KEYS: 1 stream
-- ARGV: 1 group; 2 consumer; 3 lease in ms; 4 where to begin: '-', or '(' and an id; 5 how many to look at;
--       6 deliveries from which an entry is left for suspect.lua
-- Reply: {where to go on, 1 where a suspect was left else 0, {id, deliveries, {field, value, ...}} ...}
local rows = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], ARGV[4], '+', ARGV[5])
local reply = {'-', 0}
if #rows == tonumber(ARGV[5]) then
  reply[1] = '(' .. rows[#rows][1]
end
for _, row in ipairs(rows) do
  if row[4] >= tonumber(ARGV[6]) then
    reply[2] = 1
  else
    -- Nothing comes back of an entry that was deleted while it was pending; it is no longer pending then.
    local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], row[1])[1]
    if claimed then
      reply[#reply + 1] = {row[1], row[4] + 1, claimed[2]}
    end
  end
end
return reply
