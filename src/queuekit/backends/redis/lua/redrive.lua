-- uses: queue fanout
-- Move dead letters back. ARGV: behind which ids to look in the two streams; of each message its number, id, header,
-- body, delay, priority, '=' and key.
-- Answers the numbers of those that were moved, and behind which ids to go on, or '' where there are no more.
local q = own_keys()
local source = other_keys(q)
local root = root_of(source)
local now, moved, next, wanted = time_us(), {}, {}, {}
if advance(q, now) then
  return { moved, ARGV[1], ARGV[2] }
end
local shared = root ~= source or call('HEXISTS', root.subs, 'fanned') == 1
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
      if found and #found > 0 and is_free(q, entry[1], find(q, entry[1]), 1e15) then
        local i = table.remove(found)
        local header, body, key = ARGV[i + 2], ARGV[i + 3], ARGV[i + 6]
        local delay, priority = tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5])
        if shared then -- the queue's own `plain` would give it to everybody
          put(source, new_id(root), now, header, body, delay, priority, key)
        else
          store(source, now, header, body, delay, priority, key)
        end
        withdraw(q, entry[1], now, 1e15) -- after, so that nothing is lost where the other could not be done
        moved[#moved + 1] = tonumber(ARGV[i])
      end
    end
  end
end
if #moved > 0 then
  if root ~= source and call('HEXISTS', root.subs, source.start) == 0 then
    begin_subscription(root, source, ARGV[3])
  end
  begin(source, ARGV[3])
  wake(source)
end
return { moved, next[1], next[2] }
