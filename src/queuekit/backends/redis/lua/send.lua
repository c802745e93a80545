-- uses: queue fanout
-- Store messages of any kind. ARGV: a name if the queue is made anew, the dedup window, the most messages of the
-- queue or 0, how long dead letters are kept; of each message its id, header, body, delay, priority, '=' and key, '='
-- and dedup id.
-- Answers 'full' and stores nothing; 'again' where there is something to be done before; or for each message '' or
-- the id of the one that it is a duplicate of.
local FIRST, WIDTH = 5, 7
local q = own_keys()
local born, window, limit, retention = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local now = time_us()

local answers, new, seen = {}, {}, {}
for i = FIRST, #ARGV, WIDTH do
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
local fanned = not q.is_dead and call('HEXISTS', q.subs, 'fanned') == 1
local audience = fanned and audience_of(q) or { q }
if limit > 0 then
  if fanned then
    local _, more = distribute(q)
    if more then
      return 'again'
    end
  end
  for _, each in ipairs(audience) do
    if call('XLEN', each.plain) + call('XLEN', each.kept) + #new > limit then
      return 'full'
    end
  end
end
for _, i in ipairs(new) do
  local header, body, key, dedup = ARGV[i + 1], ARGV[i + 2], ARGV[i + 5], ARGV[i + 6]
  local delay, priority = tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4])
  if q.is_dead then
    store_letter(q, now, retention, header, body, delay, priority, key)
  elseif not fanned or is_plain(delay, priority, key) then
    store(q, now, header, body, delay, priority, key)
  else
    local id = new_id(q)
    for _, each in ipairs(audience) do
      put(each, id, now, header, body, delay, priority, key)
    end
  end
  if dedup ~= '' and window > 0 then
    call('ZADD', q.forget, now + window, dedup)
    call('HSET', q.dedup, dedup, ARGV[i])
    for _, each in ipairs({ q.forget, q.dedup }) do
      call('PEXPIRE', each, math.ceil(window / 1000) + 1000)
    end
  end
end
begin(q, born)
if q.is_dead then
  enlist(q)
end
wake(q)
-- Last, because a server that is out of memory lets a script go on that has written before.
if window > 0 then
  for _, each in ipairs(call('ZRANGEBYSCORE', q.forget, '-inf', now, 'LIMIT', 0, AT_ONCE)) do
    call('ZREM', q.forget, each)
    call('HDEL', q.dedup, each)
  end
end
return answers
