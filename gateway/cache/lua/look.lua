-- Fetch an answer, or else take the lock of whoever makes it. KEYS: answer, lock.
-- ARGV: token, the token of a holder that is known to be gone, lock ms, '1': whatever is kept.
-- Returns ['found', answer], ['held', token of the holder] or ['won'].
local answer = ARGV[4] ~= '1' and redis.call('GET', KEYS[1])
if answer then return {'found', answer} end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[2] then return {'held', holder} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
return {'won'}
