-- uses: queue fanout rate
-- Lease what is ready, best first. ARGV: how many, the length of the lease, a token of this delivery's own that begins
-- with a 't', a name if the queue is made anew, a seed where priorities are drawn by weight; and where there is a
-- rate, its limit, its length of time, and its burst.
-- Answers the queue's name, the entries of a run, id, header, body and attempt of each other message, and the epoch,
-- empty where nothing may be claimed;
-- or the queue's name, how long until something becomes ready by itself (-1: nothing will), the last id of each stream
-- that tells of changes, and what must come first: nothing, a token of the rate, or the end of a pause.
local NOTHING, TOKEN, RESUME = 0, 1, 2
local q = own_keys()
local want, lease, token, seed = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[5]
allow_without_memory(q)
local now = time_us()
local known = call('HMGET', q.meta, 'born', 'cursor', 'epoch', 'paused', 'received', 'mixed')
local born, cursor, mixed = known[1], known[2] or '0-0', known[6]

-- Tell whoever uses the queue that something of it is gone.
local function renew()
  born = ARGV[4]
  call('HSET', q.meta, 'born', born)
end

if not born then
  renew()
  if call('EXISTS', q.runs, q.items) > 0 then
    cursor, mixed = recover_cursor(q)
  end
end
local root, fanned, behind = q, nil, false
if not q.is_dead then
  root = root_of(q)
  if root ~= q or not known[5] or call('HEXISTS', q.subs, 'fanned') == 1 then
    if subscribe(root, q, ARGV[4]) then
      born = call('HGET', q.meta, 'born') or born
      fanned, behind = distribute(root)
    end
  end
end
local newest = root == q and fanned or '+'
local more = advance(q, now) or behind
local bucket = ARGV[6] ~= '' and fill(q, now, tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]))

local function answer_nothing(wait, why)
  local wakes = { last_of(q.wake) }
  if root ~= q then
    wakes[2] = last_of(root.wake)
  end
  return { born, wait, wakes, why }
end

if known[4] then
  return answer_nothing(-1, RESUME)
elseif bucket then
  want = math.min(want, math.floor(bucket.tokens))
  if want < 1 then
    return answer_nothing(next_token(bucket), TOKEN)
  end
end

local function take_run(entries)
  local last = entries[#entries][1]
  call('HSET', q.runs, token, entries[1][1] .. ' ' .. last, token .. '#', #entries)
  call('ZADD', q.leases, now + lease, token)
  call('HSET', q.meta, 'cursor', last)
end

local function take_item(member, taken)
  local id = unpadded(member)
  call('ZREM', q.ready, member)
  local item = find(q, id)
  local entry = item and call('XRANGE', item.where == 'p' and q.plain or q.kept, id, id)[1]
  if not entry then
    if item then
      remove(q, id, item, now) -- somebody took its body away
      renew()
    end
    return
  end
  item.attempt = item.attempt + 1
  item.token = token
  write(q, id, item)
  call('ZADD', q.leases, now + lease, id)
  taken[#taken + 1] = id
  taken[#taken + 1] = entry[2][1]
  taken[#taken + 1] = entry[2][2]
  taken[#taken + 1] = item.attempt
end

-- Of the ready ones and the run, both in order of sending, the first `count`: how many of each.
local function merge(members, from, entries, count)
  local i, j = 0, 0
  while i + j < count and (members[from + i] or entries[j + 1]) do
    local member, entry = members[from + i], entries[j + 1]
    if member and (not entry or member < padded(entry[1])) then
      i = i + 1
    else
      j = j + 1
    end
  end
  return i, j
end

local function new_entries(count)
  if count == 0 then
    return {}
  end
  local entries = call('XRANGE', q.plain, '(' .. cursor, newest, 'COUNT', count)
  if not mixed or not entries[1] or padded(cursor) >= padded(mixed) then
    return entries
  end
  local without_records = {}
  for _, entry in ipairs(entries) do
    if call('HEXISTS', q.items, entry[1]) == 0 then
      without_records[#without_records + 1] = entry
    end
  end
  if #without_records == 0 then
    call('HSET', q.meta, 'cursor', entries[#entries][1])
    more = true
  end
  return without_records
end

-- Of the lowest priority, but none behind what a subscription still has to be given.
local function lowest_members(count)
  local members = call('ZRANGEBYSCORE', q.ready, 9, 9, 'LIMIT', 0, count)
  local horizon = behind and padded(fanned)
  while horizon and #members > 0 and members[#members] > horizon do
    table.remove(members)
  end
  return members
end

-- The members to take, and the entries; a strict order of priorities.
local function choose_best()
  local urgent = call('ZRANGEBYSCORE', q.ready, '-inf', '(9', 'LIMIT', 0, want)
  local left = want - #urgent
  if left == 0 then
    return urgent, {}
  end
  local members = lowest_members(left)
  local entries = new_entries(left)
  local i, j = merge(members, 1, entries, left)
  for k = 1, i do
    urgent[#urgent + 1] = members[k]
  end
  return urgent, { unpack(entries, 1, j) }
end

-- The same, each from a priority drawn by its weight, the priority plus one.
local function choose_by_weight()
  math.randomseed(tonumber(seed))
  local there, taken, entries = {}, {}, new_entries(want)
  for priority = 1, 9 do
    there[priority] = call('ZRANGEBYSCORE', q.ready, 9 - priority, 9 - priority, 'LIMIT', 0, want)
    taken[priority] = 0
  end
  there[0], taken[0] = lowest_members(want), 0
  local run, chosen = 0, {}
  for _ = 1, want do
    local total = 0
    for priority = 0, 9 do
      if there[priority][taken[priority] + 1] or (priority == 0 and entries[run + 1]) then
        total = total + priority + 1
      end
    end
    if total == 0 then
      break
    end
    local draw = math.random() * total
    for priority = 0, 9 do
      local member = there[priority][taken[priority] + 1]
      local entry = priority == 0 and entries[run + 1]
      if member or entry then
        draw = draw - priority - 1
        if draw < 0 then
          if member and (not entry or member < padded(entry[1])) then
            taken[priority] = taken[priority] + 1
            chosen[#chosen + 1] = member
          else
            run = run + 1
          end
          break
        end
      end
    end
  end
  return chosen, { unpack(entries, 1, run) }
end

local members, entries
if call('EXISTS', q.ready) == 0 then
  members, entries = {}, new_entries(want)
elseif seed ~= '' then
  members, entries = choose_by_weight()
else
  members, entries = choose_best()
end

local taken = {}
for _, member in ipairs(members) do
  take_item(member, taken)
end
if #entries > 0 then
  take_run(entries)
end

if #entries > 0 or #taken > 0 then
  if bucket then
    drain(q, bucket, #entries + #taken / 4)
  end
  -- Who waits knows of no lease that ends as early as this one.
  local earliest = call('ZRANGE', q.leases, 0, 0, 'WITHSCORES')
  if tonumber(earliest[2]) == now + lease then
    wake(q)
  end
  return { born, entries, taken, (bucket or fanned) and '' or known[3] or '0' }
end

if known[2] and call('EXISTS', q.plain) == 0 then -- once made it stays, also without entries
  new_id(q)
  renew()
end
local wait = -1
for _, key in ipairs({ q.due, q.leases }) do
  local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if first[2] then
    local left = math.max(0, tonumber(first[2]) - now)
    wait = wait < 0 and left or math.min(wait, left)
  end
end
return answer_nothing((more or #members > 0) and 0 or wait, NOTHING)
