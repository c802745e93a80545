-- uses: queue fanout
-- Remove a queue with its subscriptions, a subscription, or dead letters. ARGV: the places of a queue.
-- Answers 0 where there is something to be done before.
local q = own_keys()
local dead = other_keys(q)

local function unlink(keys)
  local all = {}
  for i, each in ipairs(ARGV) do
    all[i] = keys[each]
  end
  call('UNLINK', unpack(all))
end

local function unlink_with_subscriptions(root)
  for _, each in ipairs((places_of(root))) do
    unlink(each.keys)
  end
  unlink(root)
  call('UNLINK', root.subs)
end

local root = root_of(q)
if root == q then
  if q.is_dead then
    unlink(q)
  else
    unlink_with_subscriptions(q)
    unlink_with_subscriptions(dead)
  end
  return 1
end
if not q.is_dead then
  local _, more = distribute(root) -- what is there now is for the others, and not for the queue itself
  if more then
    return 0
  end
  unlink(dead)
  call('HDEL', root_of(dead).subs, dead.start)
end
unlink(q)
call('HDEL', root.subs, q.start)
local left, own = places_of(root)
if #left == 0 then
  call('UNLINK', root.subs)
  if own then
    call('HSET', root.meta, 'received', 1)
  end
end
return 1
