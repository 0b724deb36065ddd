-- Lets contents rest where they are: idle -> idle, with the band in which no review is needed. Called by Reviews.rest (planner).
-- KEYS: 1 review; 2 counts; then one content per item, 2000 at most
-- ARGV: 1 largest count; then per item: cid, version that was decided on, level, base to add to the count, lo, hi, why,
--       ms when to look again or ''
-- Reply: per item 1 rests | 2 its count left the band, or somebody asked for a review, since it was claimed: stays up for review | 0 changed since, nothing was done
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local largest = tonumber(ARGV[1])
local cids = {}
for i = 3, #KEYS do
  cids[#cids + 1] = ARGV[2 + (i - 3) * 8]
end
local held = redis.call('HMGET', KEYS[2], unpack(cids))
local asked = redis.call('ZMSCORE', KEYS[1], unpack(cids))
local reply, counts, reviews, done, at = {}, {}, {}, {}, 1
for i = 3, #KEYS do
  local key = KEYS[i]
  local cid, version, level, base, lo, hi, why, due = unpack(ARGV, at + 1, at + 8)
  at = at + 8
  local state = redis.call('HMGET', key, 'version', 'status', 'level', 'filename', 'since')
  local status = state[2]
  if (state[1] or '0') == version and (not status or status == 'idle' or status == 'unknown') then
    local count, viewed, mark = string.match(held[i - 2] or '', '^(%d+) (%d+)(.*)$')
    count = tonumber(count) or 0
    -- A total that was tallied since the look at it needs no base.
    if not state[3] and (mark or '') == '' then
      -- Beyond the largest it would lie outside every band, and be up for review for ever.
      count = math.min(count + tonumber(base), largest)
    end
    counts[#counts + 1] = cid
    counts[#counts + 1] = string.format('%.0f %s %s %s', count, viewed or '0', lo, hi)
    redis.call('HSET', key, 'level', level, 'status', 'idle', 'why', why, 'version', tonumber(version) + 1)
    if state[4] or state[5] then
      -- The catalog has the filename, and nobody asks here: at rest it would be a seventh of what a content takes.
      redis.call('HDEL', key, 'filename', 'since')
    end
    -- A claimed review is due in the future. One that is due now was asked for anew (a changed level table, a
    -- registration) after what was decided on had been read.
    local score = asked[i - 2]
    reply[#reply + 1] = 2
    if not score or tonumber(score) > now then
      if count < tonumber(lo) or count >= tonumber(hi) then
        reviews[#reviews + 1] = string.format('%.0f', now)
        reviews[#reviews + 1] = cid
      else
        reply[#reply] = 1
        if due == '' then
          done[#done + 1] = cid
        else
          reviews[#reviews + 1] = due
          reviews[#reviews + 1] = cid
        end
      end
    end
  else
    reply[#reply + 1] = 0
  end
end
if #counts > 0 then
  redis.call('HSET', KEYS[2], unpack(counts))
end
if #reviews > 0 then
  redis.call('ZADD', KEYS[1], unpack(reviews))
end
if #done > 0 then
  redis.call('ZREM', KEYS[1], unpack(done))
end
return reply
