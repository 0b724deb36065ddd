-- Lists dead letters without fetching what they hold, which may be large. Called by DeadLetterQueue.list (ingest, operator).
-- KEYS: 1 dead
-- ARGV: 1 id to go on after, or ''; 2 how many letters to look at; 3 how many to return; then what they must be, or '' for
--       any: 4 origin; 5 reason; 6 cid
-- Reply: {id to go on after, or '' at the end, {id, origin, reason, detail, attempts, died_at, entry_id, cid, move_id}, ...}
local at, left = ARGV[1] == '' and '-' or '(' .. ARGV[1], tonumber(ARGV[2])
local names = {'origin', 'reason', 'detail', 'attempts', 'died_at', 'entry_id', 'f:cid', 'f:move_id'}
local wanted = {origin = ARGV[4], reason = ARGV[5], ['f:cid'] = ARGV[6]}
local reply = {''}
while left > 0 do
  -- A few at a time: each may be megabytes.
  local rows = redis.call('XRANGE', KEYS[1], at, '+', 'COUNT', 10)
  for _, row in ipairs(rows) do
    local fields = {}
    for i = 1, #row[2], 2 do
      fields[row[2][i]] = row[2][i + 1]
    end
    local fits = true
    for name, value in pairs(wanted) do
      fits = fits and (value == '' or fields[name] == value)
    end
    if fits then
      local letter = {row[1]}
      for _, name in ipairs(names) do
        letter[#letter + 1] = fields[name] or ''
      end
      reply[#reply + 1] = letter
      if #reply > tonumber(ARGV[3]) then
        reply[1] = row[1]
        return reply
      end
    end
    at = '(' .. row[1]
  end
  if #rows < 10 then
    return reply
  end
  left = left - #rows
end
reply[1] = string.sub(at, 2)
return reply
