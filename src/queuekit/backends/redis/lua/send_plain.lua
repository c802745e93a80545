-- Append messages that have nothing special about them. ARGV: a name if the queue is made anew; header and body of each.
local plain, meta, wake = KEYS[1], KEYS[2], KEYS[3]
local call = redis.call
for i = 2, #ARGV, 2 do
  call('XADD', plain, '*', ARGV[i], ARGV[i + 1])
end
call('HSETNX', meta, 'born', ARGV[1])
call('XADD', wake, 'MAXLEN', 1, '*', 'w', '')
return 1
