-- What every script of a queue shares: where things stand, and how a message goes from one place to another.
--
-- A message without delay, key and priority is an entry of the stream `plain` and nothing else. What takes it
-- moves the cursor in `meta` on, and leases the whole stretch as one run: `runs` has the first and the last id
-- under the run's token, and under the token with a '#' how many of them are left; `leases` has its end.
-- Every other message, and a plain one once it is anything but new or in a run, has a record in `items`, and its
-- body in `kept` or still in `plain`. It is in `ready`, in `due`, in `leases`, or behind the first of its line.
-- Ids are those of `plain`, so that they tell the order of sending in all of them. Times are in microseconds.
-- A dead letter also stands in `ends`, with the time until which it is kept.
--
-- KEYS: what is known before, of this queue or subscription, of its dead letters, and of the queue of a subscription;
-- its own `plain` first. Keys of other subscriptions are reached without that. One that is named never exists, so that
-- no script begins while some of the keys are on another node already, to be ended there in the middle of its writes.

local call = redis.call

local by_place = {
  __index = function(q, place)
    local key = q.start .. place
    rawset(q, place, key)
    return key
  end,
}

-- The keys that begin like this, each by the name of its place.
local function keys_at(start)
  return setmetatable({ start = start, is_dead = string.find(start, '}.dead', 1, true) ~= nil }, by_place)
end

-- Those of the queue or the subscription that the script is for, whose `plain` is the first that is passed.
local function own_keys()
  return keys_at(string.sub(KEYS[1], 1, -6))
end

-- Those of its dead letters; of dead letters, those of what they came from.
local function other_keys(q)
  local name, rest = string.match(q.start, '^([^}]*})(.*)$')
  return keys_at(name .. (q.is_dead and string.sub(rest, 6) or '.dead' .. rest))
end

local function time_us()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- A server without memory refuses what may grow, unless the script has written before: with this, what is there can
-- still be taken and settled.
local function allow_without_memory(q)
  call('XDEL', q.plain, '0-1')
end

local function begin(q, born)
  local found = call('HGET', q.meta, 'born')
  if found then
    return found
  end
  call('HSET', q.meta, 'born', born)
  return born
end

local function wake(q)
  call('XADD', q.wake, 'MAXLEN', 1, '*', 'w', '')
end

-- As text, padded ids have the order of the ids.
local function padded(id)
  local ms, number = string.match(id, '^(%d+)%-(%d+)$')
  return string.format('%014d-%010d', ms, number)
end

local function unpadded(text)
  local ms, number = string.match(text, '^0*(%d+)%-0*(%d+)$')
  return ms .. '-' .. number
end

local function read(text)
  local attempt, priority, where, token, due, key = string.match(text, '^(%d+)|(%d)|(%a)|([^|]*)|(%d+)|(.*)$')
  return {
    attempt = tonumber(attempt),
    priority = tonumber(priority),
    where = where,
    token = token,
    due = tonumber(due),
    key = key,
  }
end

local function find(q, id)
  local text = call('HGET', q.items, id)
  return text and read(text)
end

local function write(q, id, item)
  local numbers = string.format('%d|%d|%s|%s|%.0f|', item.attempt, item.priority, item.where, item.token, item.due)
  call('HSET', q.items, id, numbers .. item.key)
end

local function stray(q, attempt)
  call('HINCRBY', q.meta, 'strays', 1)
  return { attempt = attempt, priority = 0, where = 'p', token = '', due = 0, key = '' }
end

-- The length before the key makes sure that no line begins with the name of another.
local function line_of(key)
  return #key .. ':' .. key
end

local function head_of(q, key)
  local line = line_of(key)
  local first = call('ZRANGEBYLEX', q.lines, '[' .. line, '[' .. line .. '\255', 'LIMIT', 0, 1)[1]
  return first and unpadded(string.sub(first, #line + 1))
end

local function place(q, id, item, now)
  item.token = ''
  if item.due > now then
    call('ZADD', q.due, item.due, id)
  else
    call('ZADD', q.ready, 9 - item.priority, padded(id))
  end
  write(q, id, item)
end

local function is_plain(delay, priority, key)
  return delay == 0 and priority == 0 and key == ''
end

local function new_id(q)
  local id = call('XADD', q.plain, '*', 'id', '')
  call('XDEL', q.plain, id)
  return id
end

-- With the id that is wanted, or a later one: ids may go back once, when `plain` was removed and the clock set back.
local function append(stream, id, header, body)
  local added = redis.pcall('XADD', stream, id, header, body)
  return type(added) == 'string' and added or call('XADD', stream, '*', header, body)
end

-- Store a message with a record.
local function put(q, wanted, now, header, body, delay, priority, key)
  local id = append(q.kept, wanted, header, body)
  local item = { attempt = 0, priority = priority, where = 'k', token = '', due = 0, key = key }
  if delay > 0 then
    item.due = now + delay
  end
  local behind = key ~= '' and head_of(q, key)
  if key ~= '' then
    call('ZADD', q.lines, 0, line_of(key) .. padded(id))
  end
  if behind then
    write(q, id, item)
  else
    place(q, id, item, now)
  end
  return id
end

local function store(q, now, header, body, delay, priority, key)
  if is_plain(delay, priority, key) then
    return call('XADD', q.plain, '*', header, body)
  end
  return put(q, new_id(q), now, header, body, delay, priority, key)
end

-- Store a dead letter, to be kept for so long.
local function store_letter(q, now, keep, ...)
  call('ZADD', q.ends, now + keep, store(q, now, ...))
end

local function leave_run(q, token)
  if call('HINCRBY', q.runs, token .. '#', -1) <= 0 then
    call('ZREM', q.leases, token)
    call('HDEL', q.runs, token, token .. '#')
  end
end

-- Remove a message that has a record, wherever it is; the next of its line comes forward.
local function remove(q, id, item, now)
  if item.where == 'p' then
    call('XDEL', q.plain, id)
    call('HINCRBY', q.meta, 'strays', -1)
  else
    call('XDEL', q.kept, id)
  end
  call('HDEL', q.items, id)
  if q.is_dead then
    call('ZREM', q.ends, id)
  end
  if item.token ~= '' then
    call('ZREM', q.leases, id)
  else
    call('ZREM', q.ready, padded(id))
    call('ZREM', q.due, id)
  end
  if item.key == '' then
    return
  end
  local first = head_of(q, item.key) == id
  call('ZREM', q.lines, line_of(item.key) .. padded(id))
  local after = first and head_of(q, item.key)
  local next = after and find(q, after)
  if next then -- else its record was removed from outside, and `mend` makes it anew
    place(q, after, next, now)
    wake(q)
  end
end

local function end_run(q, token)
  local first, last = string.match(call('HGET', q.runs, token) or '0-1 0-1', '^(%S+) (%S+)$')
  call('ZREM', q.leases, token)
  call('HDEL', q.runs, token, token .. '#')
  local left = call('XRANGE', q.plain, first, last)
  for _, entry in ipairs(left) do
    if call('HEXISTS', q.items, entry[1]) == 0 then
      place(q, entry[1], stray(q, 1), 0)
    end
  end
  return #left
end

local AT_ONCE = 1000

-- Make ready what is due, and what was leased for long enough. True: there is more of it.
local function advance(q, now)
  local work = 0
  for _, id in ipairs(call('ZRANGEBYSCORE', q.due, '-inf', now, 'LIMIT', 0, AT_ONCE)) do
    call('ZREM', q.due, id)
    local item = find(q, id)
    if item then
      place(q, id, item, now)
    end
    work = work + 1
  end
  for _, id in ipairs(call('ZRANGEBYSCORE', q.leases, '-inf', now, 'LIMIT', 0, AT_ONCE)) do
    if work >= AT_ONCE then
      return true
    end
    if string.sub(id, 1, 1) == 't' then
      work = work + end_run(q, id)
    else
      call('ZREM', q.leases, id)
      local item = find(q, id)
      if item then
        item.due = 0
        place(q, id, item, now)
      end
      work = work + 1
    end
  end
  return work >= AT_ONCE
end

-- What stands in `plain` behind the cursor was never taken, unless it has a record.
local function is_behind(q, id)
  return padded(id) > padded(call('HGET', q.meta, 'cursor') or '0-0')
end

-- Whoever has read messages and not leased them yet must know that some of them are gone.
local function tell_gone(q)
  call('HINCRBY', q.meta, 'epoch', 1)
end

-- Whether nobody has leased a message now, and it was leased at most so often.
local function is_free(q, id, item, most)
  if item then
    return item.token == '' and item.attempt <= most
  end
  return is_behind(q, id)
end

-- Remove a message that is free; false where it is not so.
local function withdraw(q, id, now, most)
  local item = find(q, id)
  if not is_free(q, id, item, most) then
    return false
  elseif item then
    remove(q, id, item, now)
    return true
  end
  local gone = call('XDEL', q.plain, id) == 1
  if gone then
    tell_gone(q)
    call('ZREM', q.ends, id)
  end
  return gone
end

local COUNTED_AT_ONCE = 1000

-- How many records are of messages in `plain`; of very many, those of the first thousands.
local function count_strays(q)
  local strays, position = 0, '0'
  for _ = 1, 10 do
    local scan = call('HSCAN', q.items, position, 'COUNT', COUNTED_AT_ONCE)
    for i = 2, #scan[2], 2 do
      strays = strays + (string.find(scan[2][i], '^%d+|%d|p|') and 1 or 0)
    end
    position = scan[1]
    if position == '0' then
      break
    end
  end
  return strays
end

-- Where to go on with `plain` after `meta` was removed, and up to where some of it may have records. A run that has
-- been taken is not taken again.
local function recover_cursor(q)
  local cursor, runs = '0-0', call('HVALS', q.runs)
  for _, each in ipairs(runs) do
    local last = string.match(each, '^%S+ (%S+)$')
    if last and padded(last) > padded(cursor) then
      cursor = last
    end
  end
  local newest = call('XREVRANGE', q.plain, '+', '-', 'COUNT', 1)[1]
  local mixed = newest and newest[1] or '0-0'
  call('HSET', q.meta, 'cursor', cursor, 'mixed', mixed, 'strays', count_strays(q))
  return cursor, mixed
end
