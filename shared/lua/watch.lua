-- Looks at a stream without fetching what it holds. Called by Contents.watch (every service's metrics).
-- KEYS: 1 stream
-- ARGV: 1 group
-- Reply: {entries, entries in the hands of consumers, id of the oldest entry or ''}
local size = redis.call('XLEN', KEYS[1])
if size == 0 then
  return {0, 0, ''}
end
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1])
return {size, pending.err and 0 or pending[1], first[1][1]}
