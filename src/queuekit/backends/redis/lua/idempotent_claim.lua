-- Take the work of a key. KEYS: the key. ARGV: the owner; the fingerprint; how long the claim holds, and how long it is
-- remembered after that, in microseconds. Answers the state, and for `busy` what is left of the other claim.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found = redis.call('HMGET', KEYS[1], 'owner', 'fingerprint', 'done', 'until')
local done = found[3] == '1'
local left = found[4] and found[4] - now or 0
if found[1] and (done or left > 0) then
  if found[2] ~= ARGV[2] then
    return { 'mismatch', 0 }
  end
  if done then
    return { 'done', 0 }
  end
  if found[1] ~= ARGV[1] then
    return { 'busy', left }
  end
end
local ends = string.format('%.0f', now + ARGV[3])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'fingerprint', ARGV[2], 'done', '0', 'until', ends)
redis.call('PEXPIRE', KEYS[1], math.ceil((ARGV[3] + ARGV[4]) / 1000))
return { 'claimed', 0 }
