-- Store messages of any kind. ARGV: a name if the queue is made anew, the dedup window, the most messages of the
-- queue or 0; of each message its id, header, body, delay, priority, '=' and key, '=' and dedup id.
-- Answers 'full' and stores nothing, or for each message '' or the id of the one that it is a duplicate of.
local q = keys_of(1)
local born, window, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = time_us()

local answers, new, seen = {}, {}, {}
for i = 4, #ARGV, 7 do
  local dedup = ARGV[i + 6]
  local known = false
  if dedup ~= '' and window > 0 then
    local ends = call('ZSCORE', q.forget, dedup)
    known = seen[dedup] or (ends and tonumber(ends) > now and call('HGET', q.dedup, dedup))
  end
  answers[#answers + 1] = known or ''
  if not known then
    new[#new + 1] = i
    if dedup ~= '' then
      seen[dedup] = ARGV[i]
    end
  end
end

if #new == 0 then
  return answers
end
if limit > 0 and call('XLEN', q.plain) + call('XLEN', q.kept) + #new > limit then
  return 'full'
end
for _, i in ipairs(new) do
  local dedup = ARGV[i + 6]
  store(q, now, ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]), ARGV[i + 5])
  if dedup ~= '' and window > 0 then
    call('ZADD', q.forget, now + window, dedup)
    call('HSET', q.dedup, dedup, ARGV[i])
    for _, key in ipairs({ q.forget, q.dedup }) do
      call('PEXPIRE', key, math.ceil(window / 1000) + 1000)
    end
  end
end
begin(q, born)
wake(q)
-- Last, because a server that is out of memory lets a script go on that has written before.
if window > 0 then
  for _, each in ipairs(call('ZRANGEBYSCORE', q.forget, '-inf', now, 'LIMIT', 0, AT_ONCE)) do
    call('ZREM', q.forget, each)
    call('HDEL', q.dedup, each)
  end
end
return answers
