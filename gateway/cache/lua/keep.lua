-- Keep an answer, and let go of the lock if it is ours still. KEYS: answer, lock.
-- ARGV: token, answer, ms to live.
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1
