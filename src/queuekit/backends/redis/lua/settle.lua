-- uses: queue fanout keeping
-- Carry out settlements. ARGV: a name if a queue is made anew, how long messages that are done are kept or 0, the most
-- of them, how long dead letters are kept; then groups of one token: the action (ack, retry, release, extend, dead), the
-- token, a length of time, how many, and their ids; a dead one has header, body, delay, priority and '=' and key of its
-- letter behind each id. An 'ack_new' is the ack of messages that the client has never settled before, so that their
-- number says which of them were there: all, or none.
-- Answers 1 where all of it was done, or for each id 1, 0 where the lease was lost, or -1 where that cannot be known.
local FIRST = 5
local q = own_keys()
local keep, keep_most, retention = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
allow_without_memory(q)
local now = time_us()
local answers, lost, stirred, kept = {}, false, false, 0

-- The record of a message that this token holds; true where it holds it in its run.
local function holds(token, in_run, id)
  local item = find(q, id)
  if not item then
    return in_run
  end
  if item.token ~= token then
    return false
  end
  local ends = call('ZSCORE', q.leases, id)
  return ends and tonumber(ends) > now and item
end

-- Make a message of a run stand on its own; nil where it is gone.
local function out_of_run(token, id)
  if not call('XRANGE', q.plain, id, id)[1] then
    return nil
  end
  leave_run(q, token)
  return stray(q, 1)
end

local function give_back(token, id, held, delay, counted)
  local item = held == true and out_of_run(token, id) or held
  if item == true then
    return false
  end
  if held ~= true then
    call('ZREM', q.leases, id)
  end
  if not counted then
    item.attempt = item.attempt - 1
  end
  item.due = delay > 0 and now + delay or 0
  place(q, id, item, now)
  stirred = true
  return true
end

-- Keep a message that is about to be removed.
local function keep_one(id, held)
  local entry = call('XRANGE', (held == true or held.where == 'p') and q.plain or q.kept, id, id)[1]
  if entry then
    keep_done(q, now, id, held == true and 1 or held.attempt, entry, keep)
    kept = kept + 1
  end
end

local function acknowledge(token, id, held)
  if held ~= true then
    remove(q, id, held, now)
    return true
  end
  if call('XDEL', q.plain, id) == 0 then
    return false
  end
  if q.is_dead then
    call('ZREM', q.ends, id)
  end
  leave_run(q, token)
  return true
end

local function extend(token, id, held, length)
  local item = held == true and out_of_run(token, id) or held
  if item == true then
    return false
  end
  item.token = token
  write(q, id, item)
  call('ZADD', q.leases, now + length, id)
  return true
end

-- The letter is stored first, so that what ends the script between the two, such as a foreign key, loses nothing.
local function bury(token, id, held, at)
  if held == true and not call('XRANGE', q.plain, id, id)[1] then
    return false
  end
  local dead = other_keys(q)
  store_letter(dead, now, retention, ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), ARGV[at + 4])
  begin(dead, ARGV[1])
  enlist(dead)
  wake(dead)
  return acknowledge(token, id, held)
end

local function settle(action, token, held, id, amount, at)
  if action == 'ack' then
    if keep > 0 then
      keep_one(id, held)
    end
    return acknowledge(token, id, held)
  elseif action == 'retry' or action == 'release' then
    return give_back(token, id, held, amount, action == 'retry')
  elseif action == 'extend' then
    return extend(token, id, held, amount)
  end
  return bury(token, id, held, at)
end

local function leave_together(token, done)
  if done > 0 and call('HINCRBY', q.runs, token .. '#', -done) <= 0 then
    call('ZREM', q.leases, token)
    call('HDEL', q.runs, token, token .. '#')
  end
end

-- Most of a worker's acknowledgements: messages of one run, none of which stands on its own.
local function acknowledge_run(token, from, to)
  local count = to - from + 1
  local done = call('XDEL', q.plain, unpack(ARGV, from, to))
  if q.is_dead then
    call('ZREM', q.ends, unpack(ARGV, from, to))
  end
  leave_together(token, done)
  local answer = done == count and 1 or done == 0 and 0 or -1
  lost = lost or answer ~= 1
  for _ = 1, count do
    answers[#answers + 1] = answer
  end
end

local i = FIRST
while i <= #ARGV do
  local action, token, amount, count = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local ends = call('ZSCORE', q.leases, token)
  local in_run = ends and tonumber(ends) > now or false
  local width = action == 'dead' and 6 or 1
  i = i + 4
  local new = action == 'ack_new'
  if new then
    action = 'ack'
  end
  if new and in_run and keep == 0 and call('EXISTS', q.items) == 0 then
    acknowledge_run(token, i, i + count - 1)
  else
    for at = i, i + (count - 1) * width, width do
      local id = ARGV[at]
      local held = holds(token, in_run, id)
      local done = held and settle(action, token, held, id, amount, at + 1)
      answers[#answers + 1] = done and 1 or 0
      lost = lost or not done
    end
  end
  i = i + count * width
end
if stirred then
  wake(q)
end
if kept > 0 then
  trim_done(q, keep_most, kept)
end
return lost and answers or 1
