-- Takes over the oldest stale entry that was handed out often: it alone, since what dies with a killer is no killer. One
-- that was handed out to the limit becomes a dead letter here, unseen: its text may be what kills. Called by Reclaiming.
-- KEYS: 1 stream; 2 dead
-- ARGV: 1 group; 2 consumer; 3 lease in ms; 4 deliveries from which an entry is a suspect; 5 the limit;
--       6 where to end: '+', or '(' and an id; 7 origin (the stream's name); 8 reason; 9 detail
-- Reply: {} there is none | {id, deliveries} buried | {id, deliveries, {field, value, ...}} taken over
local from, found = '-', nil
while from and not found do
  local rows = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], from, ARGV[6], 100)
  from = #rows == 100 and '(' .. rows[100][1]
  for _, row in ipairs(rows) do
    if row[4] >= tonumber(ARGV[4]) then
      found = row
      break
    end
  end
end
if not found then
  return {}
end
local id, deliveries = found[1], found[4]
if deliveries < tonumber(ARGV[5]) then
  local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], id)[1]
  return claimed and {id, deliveries + 1, claimed[2]} or {}
end
local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
redis.call('XACK', KEYS[1], ARGV[1], id)
if not entry then
  return {}
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local letter = {'origin', ARGV[7], 'reason', ARGV[8], 'detail', ARGV[9], 'attempts', deliveries, 'died_at', now, 'entry_id', id}
-- As fail.lua does.
for i = 1, math.min(#entry[2], 2000), 2 do
  letter[#letter + 1] = 'f:' .. entry[2][i]
  letter[#letter + 1] = entry[2][i + 1]
end
redis.call('XADD', KEYS[2], '*', unpack(letter))
redis.call('XDEL', KEYS[1], id)
return {id, deliveries}
