-- Give up a claim. KEYS: the key. ARGV: the owner. Answers 1, or 0 where it is not the owner's any more, or is done.
local found = redis.call('HMGET', KEYS[1], 'owner', 'done')
if found[1] ~= ARGV[1] or found[2] == '1' then
  return 0
end
return redis.call('DEL', KEYS[1])
