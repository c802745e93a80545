-- uses: queue fanout
-- Remove messages that are not leased, some of them. ARGV: '' or the last id that may go, the position of the scan.
-- Answers how many, the last id that may go, and the next position; '' when all is done.
local q = own_keys()
local stop, position = ARGV[1], ARGV[2]
local now = time_us()
if settle_down(q, now) then
  return { 0, stop, position }
end
if stop == '' then
  local last = call('XREVRANGE', q.plain, '+', '-', 'COUNT', 1)[1]
  stop = last and last[1] or '0-1'
end
local cursor = call('HGET', q.meta, 'cursor') or '0-0'
if padded(stop) > padded(cursor) then
  local entries = call('XRANGE', q.plain, '(' .. cursor, stop, 'COUNT', 100)
  for _, entry in ipairs(entries) do
    call('XDEL', q.plain, entry[1])
    call('ZREM', q.ends, entry[1])
  end
  if #entries > 0 then
    tell_gone(q)
    return { #entries, stop, position }
  end
end
local removed = 0
local scan = call('HSCAN', q.items, position, 'COUNT', 100)
for i = 1, #scan[2], 2 do
  local item = find(q, scan[2][i]) -- as it is now: the one before may have come forward
  if item and item.token == '' then
    remove(q, scan[2][i], item, now)
    removed = removed + 1
  end
end
return { removed, stop, scan[1] == '0' and '' or scan[1] }
