-- Let go of the turn, if it is ours, and tell that the model is loaded, if it is.
-- KEYS: turn, known. ARGV: token, for how long 'loaded' is known in ms, 0: it is not loaded.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
if ARGV[2] ~= '0' then redis.call('SET', KEYS[2], 'loaded', 'PX', ARGV[2]) end
return 1
