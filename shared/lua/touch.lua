-- Puts contents up for review, known ones or all. Called by Contents.touch (registration, import, a changed level table).
-- KEYS: 1 review; 2 counts; then one content per item
-- ARGV: 1 'all' or 'known' (only those that Redis holds something of); then the cids
-- Reply: how many were put up
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local touched = 0
-- Some at a time: a call takes no more values than fit on the stack.
for first = 3, #KEYS, 1000 do
  local last = math.min(first + 999, #KEYS)
  local counts = redis.call('HMGET', KEYS[2], unpack(ARGV, first - 1, last - 1))
  local due = {}
  for i = first, last do
    local cid, status = ARGV[i - 1], redis.call('HGET', KEYS[i], 'status')
    if status == 'forgotten' and ARGV[1] == 'known' then
      -- Registered anew.
      redis.call('DEL', KEYS[i])
      redis.call('HDEL', KEYS[2], cid)
    elseif ARGV[1] == 'all' or status or counts[i - first + 1] then
      due[#due + 1] = now
      due[#due + 1] = cid
      touched = touched + 1
    end
  end
  if #due > 0 then
    redis.call('ZADD', KEYS[1], unpack(due))
  end
end
return touched
