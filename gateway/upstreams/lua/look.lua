-- Take the turn to ask after a model that is loading, or keep it, and tell what is known of it.
-- KEYS: turn, known. ARGV: token, turn ms, known ms, '1': it has just been heard to be loading,
-- estimate ms, what is left of it in ms. What is known: 'loaded', or estimate and time in ms.
-- Returns ['loaded'], or [1: the turn is ours, estimate ms, what is left of it in ms].
local known = redis.call('GET', KEYS[2])
if known == 'loaded' and ARGV[4] == '0' then return {'loaded'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local estimate, expected = string.match(known or '', '^(%d+) (%d+)$')
if not estimate or (ARGV[4] == '1' and estimate ~= ARGV[5]) then
  estimate, expected = ARGV[5], string.format('%.0f', now + ARGV[6])
end
redis.call('SET', KEYS[2], estimate .. ' ' .. expected, 'PX', ARGV[3])
local holder = redis.call('GET', KEYS[1])
local is_ours = not holder or holder == ARGV[1]
if is_ours then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return {is_ours and 1 or 0, tonumber(estimate), expected - now}
