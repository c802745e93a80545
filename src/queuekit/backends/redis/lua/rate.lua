-- A rate for all who receive: a bucket with tokens, of which each message that is handed out takes one. Without a key
-- the bucket is full.

local function fill(q, now, limit, per, burst)
  local bucket = { limit = limit, per = per, burst = burst, tokens = burst, at = now }
  local known = call('HMGET', q.rate, 'tokens', 'at')
  if known[1] and known[2] then
    local passed = math.max(0, now - tonumber(known[2]))
    bucket.tokens = math.min(burst, tonumber(known[1]) + passed * limit / per)
  end
  return bucket
end

local function drain(q, bucket, taken)
  bucket.tokens = bucket.tokens - taken
  call('HSET', q.rate, 'tokens', string.format('%.6f', bucket.tokens), 'at', string.format('%.0f', bucket.at))
  call('PEXPIRE', q.rate, math.ceil((bucket.burst - bucket.tokens) * bucket.per / bucket.limit / 1000) + 1000)
end

-- How long until there is a whole token.
local function next_token(bucket)
  return math.max(1, math.ceil((1 - bucket.tokens) * bucket.per / bucket.limit))
end
