-- Ends the tracking of a content, unless a relocation is open. Called by Contents.forget (ingest).
-- KEYS: 1 content; 2 review; 3 counts
-- ARGV: 1 cid; 2 ms for which late views and reviews find it forgotten
-- Reply: '' forgotten | the status that forbids it, nothing was done
local status = redis.call('HGET', KEYS[1], 'status')
if status == 'update' or status == 'moving' or status == 'done' or status == 'retiring' then
  return status
end
-- A review that runs before the row is gone must not open a relocation.
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'status', 'forgotten')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return ''
