-- Takes views in, once per marker: all partitions or none. Called by Views.publish (ingest).
-- KEYS: per partition its views stream, then one seen marker per part; last the batch's seen marker, if there is one
-- ARGV: 1 deadline in ms of Redis' clock, or 0; 2 life of the batch's marker in ms, or 0: there is none; then per
--       partition: number of its parts, then per part: life of its marker in ms, packed tally; then that of the batch or ''
-- Reply: {1, how many tallies were taken in now}, or {0}: past the deadline, nothing was done
local time = redis.call('TIME')
local deadline = tonumber(ARGV[1])
if deadline > 0 and time[1] * 1000 + time[2] / 1000 > deadline then
  return {0}
end
local function append(fields, packed)
  fields[#fields + 1] = 'v' .. (#fields / 2 + 1)
  fields[#fields + 1] = packed
end
-- One marker for all partitions, as they are taken in together or not at all: one each were most of the keys in Redis.
local is_batch_new = tonumber(ARGV[2]) > 0 and redis.call('SET', KEYS[#KEYS], '1', 'NX', 'PX', ARGV[2])
local taken, key, at = 0, 1, 3
while at <= #ARGV do
  local stream, parts, fields = KEYS[key], tonumber(ARGV[at]), {}
  for part = 1, parts do
    local life, packed = ARGV[at + 2 * part - 1], ARGV[at + 2 * part]
    if redis.call('SET', KEYS[key + part], '1', 'NX', 'PX', life) then
      append(fields, packed)
    end
  end
  key, at = key + parts + 1, at + 2 * parts + 2
  local of_batch = ARGV[at - 1]
  if is_batch_new and of_batch ~= '' then
    append(fields, of_batch)
  end
  taken = taken + #fields / 2
  -- A few thousand fields at a time: unpack puts them on Lua's stack, which is bounded.
  local first = 1
  while first <= #fields do
    local last = math.min(first + 1999, #fields)
    redis.call('XADD', stream, '*', unpack(fields, first, last))
    first = last + 1
  end
end
return {1, taken}
