-- Let go of a lock if it is ours still. KEYS: lock. ARGV: token. Returns whether it was.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
