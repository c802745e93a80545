-- Move dead letters back. KEYS: of the dead-letter queue, then of its source. ARGV: behind which ids to look in the two
-- streams; of each message its number, id, header, body, delay, priority, '=' and key.
-- Answers the numbers of those that were moved, and behind which ids to go on, or '' where there are no more.
local q, source = keys_of(1), keys_of(13)
local now, moved, next, wanted = time_us(), {}, {}, {}
if advance(q, now) then
  return { moved, ARGV[1], ARGV[2] }
end
for i = #ARGV - 6, 4, -7 do
  local id = ARGV[i + 1]
  wanted[id] = wanted[id] or {}
  table.insert(wanted[id], i)
end
for which, stream in ipairs({ q.plain, q.kept }) do
  local after = ARGV[which]
  next[which] = ''
  if after ~= '' then
    for _, entry in ipairs(call('XRANGE', stream, '(' .. after, '+', 'COUNT', 100)) do
      next[which] = entry[1]
      local found = wanted[string.match(entry[2][1], '^([^\n]*)')]
      if found and #found > 0 and withdraw(q, entry[1], now, 1e15) then
        local i = table.remove(found)
        store(source, now, ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5]), ARGV[i + 6])
        moved[#moved + 1] = tonumber(ARGV[i])
      end
    end
  end
end
if #moved > 0 then
  begin(source, ARGV[3])
  wake(source)
end
return { moved, next[1], next[2] }
