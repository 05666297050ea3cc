-- Tell all that a shard holds at one instant. KEYS after the shard's: use of each scope.
-- Returns now (ms), the last id of the ledger's stream (empty: it has had none), the leases (JSON),
-- and d, d1..d5, m, m1 of each scope.
local last = ''
if redis.call('EXISTS', LEDGER) == 1 then
  local info = redis.call('XINFO', 'STREAM', LEDGER)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
end
local used = {}
for i = 5, #KEYS do
  used[i - 4] = redis.call('HMGET', KEYS[i], 'd', 'd1', 'd2', 'd3', 'd4', 'd5', 'm', 'm1')
end
return {whole(now), last, redis.call('HVALS', LEASES), used}
