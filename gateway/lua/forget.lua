-- Forget the counters of a shard, so that they are counted anew from the book. Leases and the
-- levels of the buckets stay. KEYS after the shard's: use of each scope.
redis.call('DEL', KEYS[1])
for i = 5, #KEYS do
  redis.call('HDEL', KEYS[i], 'd', 'd1', 'd2', 'd3', 'd4', 'd5', 'm', 'm1')
end
return #KEYS - 4
