-- Keeps the counts of contents that the catalog does not name, for a while. Called by Reviews.unknown (planner).
-- KEYS: 1 review; then one content per item
-- ARGV: 1 ms until the count is forgotten; 2 ms until the catalog is asked again; then per item: cid, version
-- Reply: per item 1 kept | 0 changed since, nothing was done
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local again = string.format('%.0f', now + tonumber(ARGV[2]))
local reply = {}

local function put_off(cid)
  -- A claimed review is due in the future. One that is due now was asked for anew: the content was registered meanwhile.
  local asked = redis.call('ZSCORE', KEYS[1], cid)
  if not asked or tonumber(asked) > now then
    redis.call('ZADD', KEYS[1], again, cid)
  end
end

for i = 2, #KEYS do
  local key, cid, version = KEYS[i], ARGV[2 * i - 1], ARGV[2 * i]
  local state = redis.call('HMGET', key, 'version', 'status')
  local status = state[2]
  if (state[1] or '0') ~= version then
    reply[#reply + 1] = 0
  elseif redis.call('EXISTS', key) == 0 then
    redis.call('ZREM', KEYS[1], cid)
    reply[#reply + 1] = 1
  elseif not status or status == 'unknown' or status == 'idle' then
    redis.call('HSET', key, 'status', 'unknown', 'version', tonumber(version) + 1)
    -- An idle content that the catalog no longer names was removed there by hand; its count needs no base again.
    if redis.call('HDEL', key, 'level', 'filename', 'lo', 'hi') > 0 then
      redis.call('HSET', key, 'absolute', '1')
    end
    if redis.call('PTTL', key) < 0 then
      redis.call('PEXPIRE', key, ARGV[1])
    end
    put_off(cid)
    reply[#reply + 1] = 1
  elseif status == 'forgotten' then
    put_off(cid)
    reply[#reply + 1] = 1
  else
    reply[#reply + 1] = 0
  end
end
return reply
