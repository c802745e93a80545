-- uses: queue fanout
-- Count the messages.
-- Answers nil where there is more to make ready before; else ready, leased, all, all dead letters, and what is done.
local q = own_keys()
local dead = other_keys(q)
local now = time_us()
if settle_down(q, now) then
  return nil
end
local in_runs, runs = 0, call('HGETALL', q.runs)
for i = 1, #runs, 2 do
  if string.sub(runs[i], -1) == '#' then
    in_runs = in_runs + runs[i + 1]
  end
end
local plain, kept = call('XLEN', q.plain), call('XLEN', q.kept)
in_runs = math.min(in_runs, plain) -- some of them may be gone
local strays = call('EXISTS', q.items) == 1 and tonumber(call('HGET', q.meta, 'strays') or 0) or 0
local ready = call('ZCARD', q.ready) + plain - in_runs - strays
local leased = in_runs + call('ZCARD', q.leases) - #runs / 4
local done = call('ZCOUNT', q.past, string.format('(%.0f', now), '+inf')
return { ready, leased, plain + kept, call('XLEN', dead.plain) + call('XLEN', dead.kept), done }
