-- Set scopes' counters to what the book knows, unless the shard's counters are known already.
-- KEYS after the shard's: use of each scope.
-- ARGV: day, month, '1' with the shard's last scopes, then d1..d5 and m1 of each scope.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
for i = 5, #KEYS do
  local at = (i - 5) * 6 + 3
  redis.call('HSET', KEYS[i], 'd', ARGV[1], 'd1', ARGV[at + 1], 'd2', ARGV[at + 2],
    'd3', ARGV[at + 3], 'd4', ARGV[at + 4], 'd5', ARGV[at + 5], 'm', ARGV[2], 'm1', ARGV[at + 6])
end
if ARGV[3] == '1' then redis.call('SET', KEYS[1], '1') end
return 1
