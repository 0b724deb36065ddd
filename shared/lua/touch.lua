-- Puts contents up for review, known ones or all. Called by Contents.touch (registration, import, a changed level table).
-- KEYS: 1 review; then one content per item
-- ARGV: 1 'all' or 'known' (only those that Redis holds something of); then the cids
-- Reply: how many were put up
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local touched = 0
for i = 2, #KEYS do
  local status = redis.call('HGET', KEYS[i], 'status')
  if status == 'forgotten' and ARGV[1] == 'known' then
    -- Registered anew.
    redis.call('DEL', KEYS[i])
  elseif ARGV[1] == 'all' or redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('ZADD', KEYS[1], now, ARGV[i])
    touched = touched + 1
  end
end
return touched
