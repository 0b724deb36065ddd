-- Runs another script for several partitions in one call, whose text stands where the next but one line is. Each is a step
-- of its own, whatever becomes of the others. Called by Joining, where one server has the keys of all (every service).
local function step(KEYS, ARGV)
-- the script
end
-- KEYS: per partition those of the script
-- ARGV: per partition: how many keys it has; how many arguments; then these
-- Reply: per partition that of the script, or the error that broke it off
local keys, values = KEYS, ARGV
local replies, key, at = {}, 0, 0
while at < #values do
  local names, arguments = {}, {}
  local names_of, values_of = tonumber(values[at + 1]), tonumber(values[at + 2])
  for i = 1, names_of do
    names[i] = keys[key + i]
  end
  for i = 1, values_of do
    arguments[i] = values[at + 2 + i]
  end
  key, at = key + names_of, at + 2 + values_of
  local is_done, reply = pcall(step, names, arguments)
  if not is_done then
    -- Before Redis 7 an error is a text.
    reply = {err = type(reply) == 'table' and reply.err or tostring(reply)}
  end
  replies[#replies + 1] = reply
end
return replies
