-- uses: queue fanout
-- Find what is in no place any more, because a key was removed from outside, and put it into one. ARGV: how far an
-- earlier look came, '' for none. Answers how far this one came, '' where all is well or was looked at; and how much it
-- put back.
local PAGE = 100
local q = own_keys()
local now = time_us()
if settle_down(q, now) then
  return { ARGV[1], 1 }
end
local restored = 0
local phase, position = string.match(ARGV[1], '^(%a+) (%S+)$')

local spans, in_runs, leased_runs = {}, 0, 0
local all = call('HGETALL', q.runs)
for i = 1, #all, 2 do
  local token = string.match(all[i], '^(.*)#$')
  if token then
    in_runs = in_runs + all[i + 1]
  elseif call('ZSCORE', q.leases, all[i]) then
    leased_runs = leased_runs + 1
    local first, last = string.match(all[i + 1], '^(%S+) (%S+)$')
    spans[#spans + 1] = { padded(first), padded(last) }
  else
    end_run(q, all[i])
    wake(q)
    return { ARGV[1] == '' and 'plain 0-0' or ARGV[1], 1 }
  end
end

if not phase then
  local items = call('HLEN', q.items)
  local placed = call('ZCARD', q.ready) + call('ZCARD', q.due) + call('ZCARD', q.leases) - leased_runs
  if call('XLEN', q.plain) + call('XLEN', q.kept) <= in_runs + items and items <= placed then
    if items == 0 then
      call('HDEL', q.meta, 'strays')
    end
    return { '', 0 }
  end
  phase, position = 'plain', '0-0'
end

local function in_a_run(id)
  local order = padded(id)
  for _, span in ipairs(spans) do
    if order >= span[1] and order <= span[2] then
      return true
    end
  end
  return false
end

-- A record made anew from what the message itself says; how often it was tried is not known any more.
local function record_of(id, header)
  local item = { attempt = 0, priority = 0, where = 'k', token = '', due = 0, key = '' }
  local fine, rest = pcall(cjson.decode, string.match(header, '\n(.+)$') or '[]')
  if fine then
    item.key = type(rest[3]) == 'string' and '=' .. rest[3] or ''
    item.priority = tonumber(rest[4]) or 0
  end
  item.due = tonumber(call('ZSCORE', q.due, id) or 0)
  return item
end

local function into_line(id, item)
  if item.key ~= '' then
    restored = restored + call('ZADD', q.lines, 0, line_of(item.key) .. padded(id))
  end
end

-- Into its line, and where it can be received if it is the first of it.
local function restore(id, item)
  into_line(id, item)
  call('ZREM', q.leases, id)
  restored = restored + 1
  if item.key == '' or head_of(q, item.key) == id then
    place(q, id, item, now)
  else
    item.token = ''
    write(q, id, item)
  end
  wake(q)
end

local function is_lost(id, item)
  if item.token ~= '' then
    return not call('ZSCORE', q.leases, id)
  elseif item.key ~= '' and head_of(q, item.key) ~= id then
    return false
  end
  return not call('ZSCORE', q.ready, padded(id)) and not call('ZSCORE', q.due, id)
end

local function look_at_entries(stream, newest, mend)
  local entries = call('XRANGE', stream, '(' .. position, newest, 'COUNT', PAGE)
  for _, entry in ipairs(entries) do
    if call('HEXISTS', q.items, entry[1]) == 0 then
      mend(entry[1], entry[2][1])
    end
  end
  return entries[PAGE] and entries[PAGE][1]
end

local function look_at_records(look)
  local scan = call('HSCAN', q.items, position, 'COUNT', PAGE)
  for i = 1, #scan[2], 2 do
    local item = find(q, scan[2][i]) -- as it is now: the one before may have come forward
    if item then
      look(scan[2][i], item)
    end
  end
  return scan[1] ~= '0' and scan[1]
end

local next
if phase == 'plain' then
  local cursor = call('HGET', q.meta, 'cursor') or '0-0'
  next = look_at_entries(q.plain, cursor, function(id)
    if not in_a_run(id) then
      restore(id, stray(q, 1))
    end
  end)
  return { next and 'plain ' .. next or 'kept 0-0', restored }
elseif phase == 'kept' then
  next = look_at_entries(q.kept, '+', function(id, header)
    restore(id, record_of(id, header))
  end)
  return { next and 'kept ' .. next or 'lines 0', restored }
elseif phase == 'lines' then
  next = look_at_records(into_line)
  return { next and 'lines ' .. next or 'items 0', restored }
end
next = look_at_records(function(id, item)
  if is_lost(id, item) then
    restore(id, item)
  end
end)
if not next then
  call('HSET', q.meta, 'strays', count_strays(q))
end
return { next and 'items ' .. next or '', restored }
