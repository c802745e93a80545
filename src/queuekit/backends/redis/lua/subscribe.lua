-- uses: queue fanout
-- Make a subscription if it is not there. ARGV: a name if it is made.
local q = own_keys()
local root = root_of(q)
if call('HEXISTS', root.subs, q.start) == 0 then
  begin_subscription(root, q, ARGV[1])
end
return 1
