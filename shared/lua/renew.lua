-- Renews the lease on entries that are still this consumer's. Called by Consumer's renewal.
-- KEYS: 1 stream
-- ARGV: 1 group; 2 consumer; then entry ids
-- Reply: the ids that are still this consumer's
local kept = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  -- XCLAIM does not ask whose the entry is; taking one back from its new owner would have two at work.
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2]) == 1 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID')
    kept[#kept + 1] = id
  end
end
return kept
