-- Subscriptions. Each has keys of its own, as a queue has, that begin with its queue's name, a slash and its own.
--
-- While a queue has any, its `plain` is an inbox: whoever works on the queue or on one of them first gives each its
-- copies, under the same ids, so that a plain send stays what it is. Messages with a record are given at once.
-- `subs` has the last id that was given out as 'fanned'; and under the start of each subscription's keys, or '' for
-- the queue itself once somebody receives from it, the last id that was there before it began.

local COPIES_AT_ONCE, BYTES_AT_ONCE = 1000, 4194304

-- The queue of a subscription; of a queue, itself.
local function root_of(q)
  local start = string.match(q.start, '^(qk:{[^}]*}[^/:]*)/')
  return start and keys_at(start .. ':') or q
end

local function last_of(stream)
  local last = call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return last and last[1] or '0-0'
end

-- Note that there are messages or dead letters under these keys, for whoever removes the queue.
local function enlist(q)
  local root = root_of(q)
  if root ~= q then
    call('HSETNX', root.subs, q.start, '0-0')
  end
end

-- Begin a subscription, which was not there before.
local function begin_subscription(root, q, born)
  local last = last_of(root.plain)
  if call('HSETNX', root.subs, 'fanned', last) == 1 then
    if call('HEXISTS', root.meta, 'received') == 1 then
      call('HSET', root.subs, '', '0-0')
    end
    call('HINCRBY', root.meta, 'epoch', 1) -- what was read to be claimed may be a subscription's now
  end
  begin(root, born)
  call('HSET', root.subs, q.start, last)
  call('HSET', q.meta, 'born', born)
end

-- See to it that who receives here gets what is sent. True where there are subscriptions.
local function subscribe(root, q, born)
  local name = root == q and '' or q.start
  local known = call('HMGET', root.subs, 'fanned', name)
  if known[2] then
    return known[1] ~= false
  elseif name ~= '' then
    begin_subscription(root, q, born)
    return true
  elseif known[1] then
    call('HSET', root.subs, '', last_of(root.plain))
    return true
  end
  call('HSETNX', root.meta, 'received', 1)
  return false
end

local function places_of(root)
  local places, own = {}, nil
  local all = call('HGETALL', root.subs)
  for i = 1, #all, 2 do
    if all[i] == '' then
      own = padded(all[i + 1])
    elseif all[i] ~= 'fanned' then
      places[#places + 1] = { keys = keys_at(all[i]), since = padded(all[i + 1]) }
    end
  end
  return places, own
end

-- Give each subscription its copies of what was sent. Answers the last id that was given, nil where there are no
-- subscriptions; and true where there is more.
local function distribute(root)
  local fanned = call('HGET', root.subs, 'fanned')
  if not fanned then
    return nil, false
  end
  local entries = call('XRANGE', root.plain, '(' .. fanned, '+', 'COUNT', 1)
  if not entries[1] then
    return fanned, false
  end
  allow_without_memory(root)
  local places, own = places_of(root)
  local stays = own or #places == 0 and ''
  local copies, bytes, largest = 0, 0, 1
  while entries[1] do
    for _, entry in ipairs(entries) do
      fanned = entry[1]
      local header, body, order = entry[2][1], entry[2][2], padded(fanned)
      for _, each in ipairs(places) do
        if order > each.since then
          append(each.keys.plain, fanned, header, body)
        end
      end
      if not stays or order <= stays then
        call('XDEL', root.plain, fanned)
      end
      local size = (#header + #body) * (#places + 1)
      largest = math.max(largest, size)
      bytes = bytes + size
    end
    copies = copies + #entries * (#places + 1)
    local room = math.min((COPIES_AT_ONCE - copies) / (#places + 1), (BYTES_AT_ONCE - bytes) / largest)
    if room < 1 then
      call('HSET', root.subs, 'fanned', fanned)
      return fanned, true
    end
    entries = call('XRANGE', root.plain, '(' .. fanned, '+', 'COUNT', math.floor(room))
  end
  call('HSET', root.subs, 'fanned', fanned)
  return fanned, false
end

-- Who gets what is sent to a queue.
local function audience_of(root)
  local places, own = places_of(root)
  local audience = {}
  for _, each in ipairs(places) do
    audience[#audience + 1] = each.keys
  end
  if own or #audience == 0 then
    audience[#audience + 1] = root
  end
  return audience
end

-- Make everything ready that is to be. True: there is more of it.
local function settle_down(q, now)
  local _, more = distribute(root_of(q))
  return more or advance(q, now)
end
