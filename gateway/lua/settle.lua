-- Correct what a request reserved to what it used, and put its record into the ledger's stream.
-- KEYS after the shard's: use, open for each scope; last the request's mark.
-- ARGV: id, day, month, caps (MessagePack), at ms, the five amounts reserved, the five used,
--   record (JSON; empty: the request never happened, give all back).
-- Returns 'settled', 'known' (it was before) or 'unready'. A lease that is gone was abandoned
-- (then what was charged is corrected) or never came to be (then all is charged).
local SETTLED_MARK_MS = 600000
local id, day, month, record = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[16]
local caps = cmsgpack.unpack(ARGV[4])
local mark = KEYS[#KEYS]

if redis.call('EXISTS', KEYS[1]) == 0 then return 'unready' end
local ended = redis.call('SET', mark, '1', 'NX', 'GET', 'PX', SETTLED_MARK_MS)
if ended == '1' then return 'known' end

local happened = record ~= '' and 1 or 0
local charged, requests = {0, 0, 0, 0, 0}, 0
local held = redis.call('HDEL', LEASES, id) == 1
if held then
  redis.call('ZREM', EXPIRY, id)
  for i = 1, 5 do charged[i] = tonumber(ARGV[i + 5]) end
  requests = 1
elseif happened == 0 then
  return 'settled'
elseif ended then
  charged, requests = cmsgpack.unpack(string.sub(ended, 2)), 1
  redis.call('SET', mark, '1', 'PX', SETTLED_MARK_MS)
end

local change = {}
for i = 1, 5 do change[i] = tonumber(ARGV[i + 10]) - charged[i] end
for i, cap in ipairs(caps) do
  local open = KEYS[2 * i + 4]
  if held then redis.call('ZREM', open, id) end
  add(string.match(open, '}:(.*)$'), day, month, happened - requests, change, cap[4])
end
if happened == 1 then
  if ended then
    redis.call('XADD', LEDGER, '*', 'at', ARGV[5], 'r', record, 'replaces', '1')
  else
    redis.call('XADD', LEDGER, '*', 'at', ARGV[5], 'r', record)
  end
end
return 'settled'
