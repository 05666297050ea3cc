-- End the leases of one shard that have expired. KEYS: the shard's. Returns how many.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return reclaim(1000)
