-- Keeps the counts of contents that the catalog does not name, for a while. Called by Reviews.unknown (planner).
-- KEYS: 1 review; 2 counts; then one content per item, 2000 at most
-- ARGV: 1 ms after its last view, or since it is unknown, until a content is forgotten; 2 ms until the catalog is asked
--       again; then per item: cid, version
-- Reply: per item 1 kept, or away for good | 0 changed since, nothing was done
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local keep, again = tonumber(ARGV[1]), string.format('%.0f', now + tonumber(ARGV[2]))
local cids = {}
for i = 3, #KEYS do
  cids[#cids + 1] = ARGV[2 * i - 3]
end
local held = redis.call('HMGET', KEYS[2], unpack(cids))
local asked = redis.call('ZMSCORE', KEYS[1], unpack(cids))
local reply = {}

for i = 3, #KEYS do
  local key, cid, version = KEYS[i], ARGV[2 * i - 3], ARGV[2 * i - 2]
  local counted, score = held[i - 2], asked[i - 2]
  -- A claimed review is due in the future. One that is due now was asked for anew: the content was registered meanwhile.
  local anew = score and tonumber(score) <= now
  local state = redis.call('HMGET', key, 'version', 'status', 'level', 'since')
  local status = state[2]
  reply[#reply + 1] = 1
  if (state[1] or '0') ~= version then
    reply[#reply] = 0
  elseif not status and not counted then
    redis.call('ZREM', KEYS[1], cid)
  elseif not status or status == 'unknown' or status == 'idle' then
    local count, viewed = string.match(counted or '', '^(%d+) (%d+)')
    local since = tonumber(state[4]) or now
    if not anew and math.max(since, tonumber(viewed) or 0) + keep < now then
      redis.call('DEL', key)
      redis.call('HDEL', KEYS[2], cid)
      redis.call('ZREM', KEYS[1], cid)
    else
      redis.call('HSET', key, 'status', 'unknown', 'version', tonumber(version) + 1, 'since', string.format('%.0f', since))
      if state[3] then
        -- An idle content that the catalog no longer names was removed there by hand; its count needs no base again.
        redis.call('HDEL', key, 'level', 'filename')
        redis.call('HSET', KEYS[2], cid, (count or '0') .. ' ' .. (viewed or '0') .. ' =')
      end
      if not anew then
        redis.call('ZADD', KEYS[1], again, cid)
      end
    end
  elseif status == 'forgotten' then
    -- Late views: they are of what was there before.
    redis.call('HDEL', KEYS[2], cid)
    if not anew then
      redis.call('ZADD', KEYS[1], again, cid)
    end
  else
    reply[#reply] = 0
  end
end
return reply
