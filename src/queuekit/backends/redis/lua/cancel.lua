-- uses: queue
-- Remove the messages with an id that nobody has had yet. ARGV: the id, and behind which ids to look.
-- Answers how many, and behind which to go on in each of the two streams, or '' where there are no more.
local q = own_keys()
local wanted = ARGV[1] .. '\n'
local now, removed, next = time_us(), 0, {}
for which, stream in ipairs({ q.plain, q.kept }) do
  local after = ARGV[1 + which]
  next[which] = ''
  if after ~= '' then
    for _, entry in ipairs(call('XRANGE', stream, '(' .. after, '+', 'COUNT', 100)) do
      next[which] = entry[1]
      if string.sub(entry[2][1], 1, #wanted) == wanted and withdraw(q, entry[1], now, 0) then
        removed = removed + 1
      end
    end
  end
end
return { removed, next[1], next[2] }
