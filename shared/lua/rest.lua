-- Lets contents rest where they are: idle -> idle, with the band in which no review is needed. Called by Reviews.rest (planner).
-- KEYS: 1 review; then one content per item
-- ARGV: 1 largest count; then per item: cid, version that was decided on, level, base to add to the count, lo, hi, why,
--       ms when to look again or ''
-- Reply: per item 1 rests | 2 its count left the band, or somebody asked for a review, since it was claimed: stays up for review | 0 changed since, nothing was done
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local largest = tonumber(ARGV[1])
local reply, at = {}, 1
for i = 2, #KEYS do
  local key = KEYS[i]
  local cid, version, level, base, lo, hi, why, due = unpack(ARGV, at + 1, at + 8)
  at = at + 8
  local state = redis.call('HMGET', key, 'version', 'status', 'level', 'count', 'absolute')
  local status = state[2]
  if (state[1] or '0') == version and (not status or status == 'idle' or status == 'unknown') then
    local count = tonumber(state[4]) or 0
    -- A total that was tallied since the look at it needs no base.
    if not state[3] and not state[5] then
      -- Beyond the largest it would lie outside every band, and be up for review for ever.
      count = math.min(count + tonumber(base), largest)
    end
    redis.call('HSET', key, 'level', level, 'count', string.format('%.0f', count),
      'status', 'idle', 'lo', lo, 'hi', hi, 'why', why, 'version', tonumber(version) + 1)
    -- The catalog has the filename, and nobody asks here: at rest it would be a seventh of what a content takes.
    redis.call('HDEL', key, 'absolute', 'filename')
    redis.call('PERSIST', key)
    -- A claimed review is due in the future. One that is due now was asked for anew (a changed level table, a
    -- registration) after what was decided on had been read.
    local asked = redis.call('ZSCORE', KEYS[1], cid)
    if asked and tonumber(asked) <= tonumber(now) then
      reply[#reply + 1] = 2
    elseif count < tonumber(lo) or count >= tonumber(hi) then
      redis.call('ZADD', KEYS[1], now, cid)
      reply[#reply + 1] = 2
    else
      if due == '' then
        redis.call('ZREM', KEYS[1], cid)
      else
        redis.call('ZADD', KEYS[1], due, cid)
      end
      reply[#reply + 1] = 1
    end
  else
    reply[#reply + 1] = 0
  end
end
return reply
