-- uses: queue keeping
-- Look at messages that are done and kept, in order of sending. ARGV: the id behind which to begin, how many.
-- Answers the ends of the page, and of each message its id, attempt, time of the ack, header and body.
local q = own_keys()
local now = time_us()
local from = ARGV[1] == '' and '-' or '(' .. padded(ARGV[1]) .. '|\255'
local page = call('ZRANGEBYLEX', q.done, from, '+', 'LIMIT', 0, ARGV[2])
local found, last = {}, ''
for i, each in ipairs(page) do
  local id, attempt, at, length, rest = string.match(each, '^([%d-]+)|(%d+)|(%d+)|(%d+)|(.*)$')
  local ends = call('ZSCORE', q.past, id)
  if ends and tonumber(ends) > now then
    length = tonumber(length)
    local header, body = string.sub(rest, 1, length), string.sub(rest, length + 1)
    found[#found + 1] = { unpadded(id), header, body, tonumber(attempt), at }
  end
  last = i == tonumber(ARGV[2]) and unpadded(id) or ''
end
return { last, found }
