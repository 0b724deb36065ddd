-- Counts the views of some entries, exactly once and in the order of the stream. Called by Tallies.apply (planner).
-- KEYS: 1 views stream; 2 review; 3 counts
-- ARGV: 1 group; 2 number of entries; 3 largest count; 4 number of contents with increments; 5 ms since when the views
--       waited here; 6 as MessagePack the cids, those with increments and then those with totals, and per cid its number;
--       then the entries' ids, ascending
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

local find, format, match, sub, tonumber = string.find, string.format, string.match, string.sub, tonumber
local time = redis.call('TIME')
local now = format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local adds = tonumber(ARGV[4])
-- One argument for all: as one each, they were a third of the call.
local cids, numbers = unpack(cmsgpack.unpack(ARGV[6]))
local contents = #cids

-- By what stands behind `count at`, of which there are as many as levels: what to write after a count, and the band.
local tails, los, his = {}, {}, {}

local function learn(mark)
  local lo, hi = match(mark, '^ (%d+) (%d+)$')
  local tail = ' ' .. ARGV[5] .. mark
  tails[mark] = tail
  if lo then
    los[mark], his[mark] = tonumber(lo), tonumber(hi)
  elseif mark == ' -' then
    -- A relocation is open; its settling asks for the review.
    los[mark], his[mark] = -math.huge, math.huge
  else
    los[mark], his[mark] = math.huge, math.huge
  end
  return tail
end

-- What a view costs is what happens here for each content; commands are for many. To ask for a table's length, to match
-- a pattern and to write with `%.0f` took a twentieth of the call each. `%d` is a C long, which may have 32 bits.
local reviews = 0
for from = 1, contents, 2000 do
  local to = math.min(from + 1999, contents)
  local held = redis.call('HMGET', KEYS[3], unpack(cids, from, to))
  local counts, written, due, asked = {}, 0, {}, 0
  for i = from, to do
    local cid, count, value = cids[i], numbers[i], held[i - from + 1]
    local before, mark = nil, ''
    if value then
      local gap = find(value, ' ', 1, true)
      before = gap and tonumber(sub(value, 1, gap - 1))
      if before and before >= 0 then
        local other = find(value, ' ', gap + 1, true)
        mark = other and sub(value, other) or ''
      else
        before = nil
      end
    end
    if i <= adds then
      count = count + (before or 0)
    elseif mark == '' then
      -- A total needs no base from the catalog added to it.
      mark = ' ='
    end
    if count > largest then
      count = largest
    end
    local tail = tails[mark] or learn(mark)
    counts[written + 1], counts[written + 2] = cid, format(count < 2147483648 and '%d' or '%.0f', count) .. tail
    written = written + 2
    if count < los[mark] or count >= his[mark] then
      due[asked + 1], due[asked + 2] = now, cid
      asked = asked + 2
    end
  end
  redis.call('HSET', KEYS[3], unpack(counts))
  if asked > 0 then
    reviews = reviews + redis.call('ZADD', KEYS[2], 'NX', unpack(due))
  end
end
return {'counted', reviews}
