-- uses: queue fanout
-- Look at messages in order of sending. ARGV: the id behind which to begin, how many.
-- Answers nil where there is more to make ready before; else of up to twice as many: id, header, body, state, attempt, due time.
local q = own_keys()
if settle_down(q, time_us()) then
  return nil
end
local cursor = padded(call('HGET', q.meta, 'cursor') or '0-0')
local found = {}

local function state_of(id, item)
  if not item then
    return padded(id) > cursor and 'ready' or 'leased'
  elseif item.token ~= '' then
    return 'leased'
  end
  return call('ZSCORE', q.ready, padded(id)) and 'ready' or 'delayed'
end

for _, stream in ipairs({ q.plain, q.kept }) do
  for _, entry in ipairs(call('XRANGE', stream, '(' .. ARGV[1], '+', 'COUNT', ARGV[2])) do
    local id = entry[1]
    local item = find(q, id)
    local state = state_of(id, item)
    local attempt = item and item.attempt or (state == 'leased' and 1 or 0)
    found[#found + 1] = { id, entry[2][1], entry[2][2], state, attempt, item and item.due or 0 }
  end
end
return found
