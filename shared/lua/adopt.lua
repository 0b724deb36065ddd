-- Finds entries that were delivered, but are in nobody's hands: XGROUP DELCONSUMER drops what its consumer held. They
-- become this consumer's, stale, so that anybody may take them over. Called by Sweep.
-- KEYS: 1 stream
-- ARGV: 1 group; 2 consumer; 3 lease in ms; 4 id to look from, '-' for the first; 5 how many entries to look at
-- Reply: {how many were found, id to go on from or ''}
local size = redis.call('XLEN', KEYS[1])
if size == 0 then
  return {0, ''}
end
local group
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local info = {}
  for i = 1, #flat, 2 do
    info[flat[i]] = flat[i + 1]
  end
  if info.name == ARGV[1] then
    group = info
  end
end
-- Handled entries are deleted at once: what is left is pending, or not yet delivered. Redis may not know the latter (lag).
if not group or (group.lag and size <= group.pending + group.lag) then
  return {0, ''}
end
local rows = redis.call('XRANGE', KEYS[1], ARGV[4], group['last-delivered-id'], 'COUNT', ARGV[5])
local found = 0
for _, row in ipairs(rows) do
  local id = row[1]
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1) == 0 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'IDLE', ARGV[3], 'FORCE', 'JUSTID')
    found = found + 1
  end
end
if #rows < tonumber(ARGV[5]) then
  return {found, ''}
end
return {found, '(' .. rows[#rows][1]}
