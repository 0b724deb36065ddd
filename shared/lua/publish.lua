-- Takes views in, once per marker: all partitions or none. Called by Views.publish (ingest).
-- KEYS: per partition its views stream, then one seen marker per part
-- ARGV: 1 deadline in ms of Redis' clock, or 0; then per partition: number of its parts, then per part: life of its
--       marker in ms, packed tally
-- Reply: {1, then per part 1 taken in now | 0 was in already}, or {0}: past the deadline, nothing was done
local time = redis.call('TIME')
local deadline = tonumber(ARGV[1])
if deadline > 0 and time[1] * 1000 + time[2] / 1000 > deadline then
  return {0}
end
local reply, key, at = {1}, 1, 2
while key <= #KEYS do
  local stream, parts, fields = KEYS[key], tonumber(ARGV[at]), {}
  for part = 1, parts do
    local life, packed = ARGV[at + 2 * part - 1], ARGV[at + 2 * part]
    if redis.call('SET', KEYS[key + part], '1', 'NX', 'PX', life) then
      reply[#reply + 1] = 1
      fields[#fields + 1] = 'v' .. (#fields / 2 + 1)
      fields[#fields + 1] = packed
    else
      reply[#reply + 1] = 0
    end
  end
  -- A few thousand fields at a time: unpack puts them on Lua's stack, which is bounded.
  local first = 1
  while first <= #fields do
    local last = math.min(first + 1999, #fields)
    redis.call('XADD', stream, '*', unpack(fields, first, last))
    first = last + 1
  end
  key, at = key + parts + 1, at + 2 * parts + 1
end
return reply
