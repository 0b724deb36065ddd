-- Reads new entries of one stream after the other until there are enough: XREADGROUP's own COUNT is for each stream, and
-- what is read together is handled together, at a call per partition. Called by Reading.
-- KEYS: streams
-- ARGV: 1 group; 2 consumer; 3 how many entries at most
-- Reply: {{stream, {{id, {field, value, ...}}, ...}}, ...}
local left, reply = tonumber(ARGV[3]), {}
for _, stream in ipairs(KEYS) do
  local found = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', left, 'STREAMS', stream, '>')
  if found then
    reply[#reply + 1] = found[1]
    left = left - #found[1][2]
    if left <= 0 then
      break
    end
  end
end
return reply
