-- Prolong the leases of requests that are still under way. KEYS: the shard's.
-- ARGV: lease ms, request ids. Returns how many of them there still were.
local till, found = now + ARGV[1], 0
for i = 2, #ARGV do
  local id = ARGV[i]
  local text = redis.call('HGET', LEASES, id)
  if text then
    found = found + 1
    redis.call('ZADD', EXPIRY, 'XX', till, id)
    for _, scope in ipairs(cjson.decode(text).scopes) do
      redis.call('ZADD', 'open:' .. TAG .. ':' .. scope, 'XX', till, id)
    end
  end
end
return found
