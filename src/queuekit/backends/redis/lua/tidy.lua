-- uses: queue fanout keeping
-- Remove what was kept for long enough. Answers 1 where there is more.
local LEASED = 60000000
local q = own_keys()
local dead = other_keys(q)
local now = time_us()
allow_without_memory(q)
local work = forget_done(q, call('ZRANGEBYSCORE', q.past, '-inf', now, 'LIMIT', 0, FORGET_AT_ONCE))
local letters = q.is_dead and q or dead
local due = call('ZRANGEBYSCORE', letters.ends, '-inf', now, 'LIMIT', 0, FORGET_AT_ONCE)
if #due > 0 and advance(letters, now) then
  return 1
end
for _, id in ipairs(due) do
  if not withdraw(letters, id, now, 1e15) then
    local there = call('XRANGE', letters.plain, id, id)[1] or call('XRANGE', letters.kept, id, id)[1]
    call('ZREM', letters.ends, id)
    if there then -- somebody has it now
      call('ZADD', letters.ends, now + LEASED, id)
    end
  end
end
return (work == FORGET_AT_ONCE or #due == FORGET_AT_ONCE) and 1 or 0
