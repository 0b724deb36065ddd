-- Counts the views of some entries, exactly once and in the order of the stream. Called by Tallies.apply (planner).
-- KEYS: 1 views stream; 2 review; then one content per sum
-- ARGV: 1 group; 2 number of entries; 3 largest count; then the entries' ids, ascending; then per content:
--       cid, 'add' or 'set', number, ms when its latest view was accepted
-- Reply: {'counted', contents put up for review}
--      | {'stale', ids...}: these are no longer pending; nothing was counted
--      | {'behind', id}: an older entry is in another consumer's hands; nothing was counted
local group, entries, largest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local last_id = ARGV[3 + entries]
local pending = {}
-- Handled entries leave the stream at once, so all that is pending up to our last entry must be ours.
local rows = redis.call('XPENDING', KEYS[1], group, '-', last_id, entries + 1)
for _, row in ipairs(rows) do
  pending[row[1]] = true
end
local stale, ours = {'stale'}, {}
for i = 1, entries do
  local id = ARGV[3 + i]
  ours[id] = true
end
for _, row in ipairs(rows) do
  if not ours[row[1]] then
    return {'behind', row[1]}
  end
end
for i = 1, entries do
  local id = ARGV[3 + i]
  if not pending[id] then
    stale[#stale + 1] = id
  end
end
if #stale > 1 then
  return stale
end
for i = 1, entries do
  redis.call('XACK', KEYS[1], group, ARGV[3 + i])
  redis.call('XDEL', KEYS[1], ARGV[3 + i])
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local reviews = 0
local at = 3 + entries
for i = 3, #KEYS do
  local cid, kind, number, seen = ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3]), ARGV[at + 4]
  at = at + 4
  local state = redis.call('HMGET', KEYS[i], 'count', 'level', 'status', 'lo', 'hi')
  local count = number
  if kind == 'add' then
    count = (tonumber(state[1]) or 0) + number
  end
  if count > largest then
    count = largest
  end
  redis.call('HSET', KEYS[i], 'count', string.format('%.0f', count), 'at', seen)
  local due
  if state[2] then
    -- While a relocation is open there is no band; its settling asks for the review.
    due = state[3] == 'idle' and not (state[4] and count >= tonumber(state[4]) and count < tonumber(state[5]))
  else
    due = true
    if kind == 'set' then
      -- A total needs no base from the catalog added to it.
      redis.call('HSET', KEYS[i], 'absolute', '1')
    end
  end
  if due then
    reviews = reviews + redis.call('ZADD', KEYS[2], 'NX', now, cid)
  end
end
return {'counted', reviews}
