-- Lease a stretch of plain messages that the client has read already, if nothing came in between that goes before them.
-- KEYS: meta, ready, due, leases, runs, wake. ARGV: the queue's name, its cursor and its epoch when it was read; first
-- and last id, how many, the length of the lease, and the token. Answers 1, or 0 where the whole way must be gone.
local meta, ready, due, leases, runs, wake = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local call = redis.call
local known = call('HMGET', meta, 'born', 'cursor', 'epoch')
if known[1] ~= ARGV[1] or known[2] ~= ARGV[2] or (known[3] or '0') ~= ARGV[3] or call('EXISTS', ready) == 1 then
  return 0
end
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
for _, key in ipairs({ due, leases }) do
  local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
  if first and tonumber(first) <= now then
    return 0
  end
end
local ends, token = now + ARGV[7], ARGV[8]
call('ZREM', leases, token) -- writes first, so that a server without memory lets it go on
call('HSET', runs, token, ARGV[4] .. ' ' .. ARGV[5], token .. '#', ARGV[6])
call('ZADD', leases, ends, token)
call('HSET', meta, 'cursor', ARGV[5])
if call('ZRANGE', leases, 0, 0)[1] == token then
  call('XADD', wake, 'MAXLEN', 1, '*', 'w', '')
end
return 1
