-- Messages that are done, and kept to be looked at: `done` has them in order of sending, as the padded id, the attempt,
-- the time of the ack, the length of the header, the header and the body; `past` has when each is to be forgotten.

local FORGET_AT_ONCE = 500

local function forget_done(q, padded_ids)
  for _, each in ipairs(padded_ids) do
    call('ZREM', q.past, each)
    call('ZREMRANGEBYLEX', q.done, '[' .. each .. '|', '[' .. each .. '|\255')
  end
  return #padded_ids
end

local function live_for(key, length)
  local ms = math.ceil(length / 1000) + 1000
  if call('PTTL', key) < ms then
    call('PEXPIRE', key, ms)
  end
end

local function keep_done(q, now, id, attempt, entry, keep)
  local header, body = entry[2][1], entry[2][2]
  local about = string.format('%s|%d|%.0f|%d|', padded(id), attempt, now, #header)
  call('ZADD', q.done, 0, about .. header .. body)
  call('ZADD', q.past, now + keep, padded(id))
  live_for(q.done, keep)
  live_for(q.past, keep)
end

-- Keep no more than the latest; removes at most some more than were added.
local function trim_done(q, most, added)
  local excess = math.min(call('ZCARD', q.past) - most, added + FORGET_AT_ONCE)
  if excess > 0 then
    forget_done(q, call('ZRANGE', q.past, 0, excess - 1))
  end
end
