-- Mark work done. KEYS: the key. ARGV: the owner; for how many microseconds that is remembered. Answers 1, or 0 where the
-- claim is not the owner's any more. What the owner has completed before is left as it is.
local found = redis.call('HMGET', KEYS[1], 'owner', 'done')
if found[1] ~= ARGV[1] then
  return 0
end
if found[2] ~= '1' then
  -- First, because a server without memory lets a script write more only where it has written what takes none.
  redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[2] / 1000))
  redis.call('HSET', KEYS[1], 'done', '1')
end
return 1
