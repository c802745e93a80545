-- Hold a claim for longer. KEYS: the key. ARGV: the owner; how long it holds from now, and how long it is remembered after
-- that, in microseconds. Answers 1, or 0 where it is not the owner's any more.
local found = redis.call('HMGET', KEYS[1], 'owner', 'done')
if found[1] ~= ARGV[1] or found[2] == '1' then
  return 0
end
local time = redis.call('TIME')
-- First, because a server without memory lets a script write more only where it has written what takes none.
redis.call('PEXPIRE', KEYS[1], math.ceil((ARGV[2] + ARGV[3]) / 1000))
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', time[1] * 1000000 + time[2] + ARGV[2]))
return 1
