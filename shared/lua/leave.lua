-- Removes a consumer that holds nothing; XGROUP DELCONSUMER alone would drop what it holds. Called by Consumer.
-- KEYS: 1 stream
-- ARGV: 1 group; 2 consumer
-- Reply: 1 removed | 0 it holds entries, nothing was done
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then
  return 0
end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
