-- uses: queue fanout
-- Hand out nothing any more, or again. ARGV: a name if the queue is made anew, and 1 to pause, 0 to go on.
local q = own_keys()
allow_without_memory(q)
if ARGV[2] == '1' then
  local root = root_of(q)
  if root ~= q and not q.is_dead and call('HEXISTS', root.subs, q.start) == 0 then
    begin_subscription(root, q, ARGV[1])
  end
  begin(q, ARGV[1])
  enlist(q)
  call('HSET', q.meta, 'paused', 1)
  tell_gone(q) -- what was read to be claimed is not
elseif call('HDEL', q.meta, 'paused') == 1 then
  wake(q)
end
return 1
