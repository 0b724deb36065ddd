-- Counts the views of some entries, exactly once and in the order of the stream. Called by Tallies.apply (planner).
-- KEYS: 1 views stream; 2 review; 3 counts
-- ARGV: 1 group; 2 number of entries; 3 largest count; 4 number of contents with increments; 5 ms since when the views
--       waited here; then the entries' ids, ascending; then the cids: those with increments, then those with totals; then
--       per cid its number
-- Reply: {'counted', contents put up for review}
--      | {'stale', ids...}: these are no longer pending; nothing was counted
--      | {'behind', id}: an older entry is in another consumer's hands; nothing was counted
local group, entries, largest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local first = 5
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

local format, match, tonumber = string.format, string.match, tonumber
local time = redis.call('TIME')
local now = format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local adds, cids = tonumber(ARGV[4]), first + entries
local contents = (#ARGV - cids) / 2
local numbers = cids + contents

-- By what stands behind `count at`, of which there are as many as levels: what to write after a count, and the band.
local tails, los, his = {}, {}, {}

local function learn(mark)
  local lo, hi = match(mark, '^ (%d+) (%d+)$')
  tails[mark] = ' ' .. ARGV[5] .. mark
  if lo then
    los[mark], his[mark] = tonumber(lo), tonumber(hi)
  elseif mark == ' -' then
    -- A relocation is open; its settling asks for the review.
    los[mark], his[mark] = -math.huge, math.huge
  else
    los[mark], his[mark] = math.huge, math.huge
  end
end

-- What a view costs is what happens here for each content; commands are for many.
local reviews = 0
for from = 1, contents, 2000 do
  local to = math.min(from + 1999, contents)
  local held = redis.call('HMGET', KEYS[3], unpack(ARGV, cids + from, cids + to))
  local counts, due = {}, {}
  for i = from, to do
    local cid, count = ARGV[cids + i], tonumber(ARGV[numbers + i])
    local before, mark = match(held[i - from + 1] or '', '^(%d+) %d+(.*)$')
    mark = mark or ''
    if i <= adds then
      count = count + (before or 0)
    elseif mark == '' then
      -- A total needs no base from the catalog added to it.
      mark = ' ='
    end
    if count > largest then
      count = largest
    end
    if not tails[mark] then
      learn(mark)
    end
    counts[#counts + 1] = cid
    counts[#counts + 1] = format('%.0f', count) .. tails[mark]
    if count < los[mark] or count >= his[mark] then
      due[#due + 1] = now
      due[#due + 1] = cid
    end
  end
  redis.call('HSET', KEYS[3], unpack(counts))
  if #due > 0 then
    reviews = reviews + redis.call('ZADD', KEYS[2], 'NX', unpack(due))
  end
end
return {'counted', reviews}
