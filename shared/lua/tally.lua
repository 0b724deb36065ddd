-- Counts the views of some entries, exactly once and in the order of the stream. Called by Tallies.apply (planner).
-- KEYS: 1 views stream; 2 review; then the contents: those with increments, then those with totals
-- ARGV: 1 group; 2 number of entries; 3 largest count; 4 number of contents with increments; 5 ms since when the views
--       waited here; 6 characters before the cid in a content's key; then the entries' ids, ascending; then per content its number
-- Reply: {'counted', contents put up for review}
--      | {'stale', ids...}: these are no longer pending; nothing was counted
--      | {'behind', id}: an older entry is in another consumer's hands; nothing was counted
local group, entries, largest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local first = 6
local last_id = ARGV[first + entries]
local pending = {}
-- Handled entries leave the stream at once, so all that is pending up to our last entry must be ours.
local rows = redis.call('XPENDING', KEYS[1], group, '-', last_id, entries + 1)
for _, row in ipairs(rows) do
  pending[row[1]] = true
end
local stale, ours = {'stale'}, {}
for i = 1, entries do
  ours[ARGV[first + i]] = true
end
for _, row in ipairs(rows) do
  if not ours[row[1]] then
    return {'behind', row[1]}
  end
end
for i = 1, entries do
  local id = ARGV[first + i]
  if not pending[id] then
    stale[#stale + 1] = id
  end
end
if #stale > 1 then
  return stale
end
-- Many at once, but no more than Lua's stack holds.
for i = first + 1, first + entries, 1000 do
  local to = math.min(i + 999, first + entries)
  redis.call('XACK', KEYS[1], group, unpack(ARGV, i, to))
  redis.call('XDEL', KEYS[1], unpack(ARGV, i, to))
end

local call, try, tonumber = redis.call, redis.pcall, tonumber
local at, cut = ARGV[5], tonumber(ARGV[6]) + 1
local soon = tonumber(at) - 60000
local time = call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local reviews = 0

local function put_up(key)
  call('HSET', key, 'at', at)
  reviews = reviews + call('ZADD', KEYS[2], 'NX', now, key:sub(cut))
end

-- While a relocation is open there is no band; its settling asks for the review.
local function look(key)
  local state = call('HMGET', key, 'level', 'status')
  if not state[1] or state[2] == 'idle' then
    put_up(key)
  else
    call('HSET', key, 'at', at)
  end
end

local function exactly(count)
  return string.format('%.0f', math.min(count, largest))
end

-- Two commands for nearly every content: this loop is what a view costs.
local adds = tonumber(ARGV[4])
local number = first + entries - 2
for i = 3, 2 + adds do
  local key = KEYS[i]
  local count = try('HINCRBY', key, 'count', ARGV[number + i])
  if type(count) ~= 'number' or count > largest then
    count = type(count) == 'number' and largest or tonumber(ARGV[number + i])
    call('HSET', key, 'count', exactly(count))
  end
  local state = call('HMGET', key, 'hi', 'at')
  local hi = state[1]
  if not hi then
    look(key)
  elseif count >= tonumber(hi) then
    put_up(key)
  elseif (tonumber(state[2]) or 0) < soon then
    -- Written once a minute: as often as views come, it would be a third command for every content.
    call('HSET', key, 'at', at)
  end
end
for i = 3 + adds, #KEYS do
  local key, count = KEYS[i], tonumber(ARGV[number + i])
  call('HSET', key, 'count', exactly(count), 'at', at)
  local state = call('HMGET', key, 'lo', 'hi', 'level')
  if not state[3] then
    -- A total needs no base from the catalog added to it.
    call('HSET', key, 'absolute', '1')
  end
  if not state[1] then
    look(key)
  elseif count < tonumber(state[1]) or count >= tonumber(state[2]) then
    put_up(key)
  end
end
return {'counted', reviews}
