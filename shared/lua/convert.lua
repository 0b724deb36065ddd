-- Moves counts to where they are kept since schema 2: from fields of the contents' own hashes. Called by Conversion (planner).
-- KEYS: 1 counts; then one content per item
-- ARGV: per item its cid
-- Reply: how many contents were of the old layout
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local converted = 0
for i = 2, #KEYS do
  local key, cid = KEYS[i], ARGV[i - 1]
  local count, viewed, lo, hi, absolute, level, status =
    unpack(redis.call('HMGET', key, 'count', 'at', 'lo', 'hi', 'absolute', 'level', 'status'))
  if count or viewed or lo or hi or absolute then
    local mark = ''
    if lo and hi then
      mark = ' ' .. lo .. ' ' .. hi
    elseif level and status ~= 'idle' and status ~= 'unknown' then
      mark = ' -'
    elseif level or absolute then
      mark = ' ='
    end
    if status ~= 'forgotten' then
      redis.call('HSETNX', KEYS[1], cid, (count or '0') .. ' ' .. (viewed or '0') .. mark)
    end
    redis.call('HDEL', key, 'count', 'at', 'lo', 'hi', 'absolute')
    converted = converted + 1
  end
  if status == 'unknown' and redis.call('PERSIST', key) == 1 then
    -- Its life ended by itself; now its review ends it.
    redis.call('HSET', key, 'since', now)
  end
end
return converted
