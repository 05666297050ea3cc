-- Take a request's amounts out of every budget of its scopes, all or nothing.
-- KEYS after the shard's: use, open for each scope.
-- ARGV: id, lease ms, caps of the scopes (MessagePack), lease (JSON), the five amounts.
-- Returns MessagePack: ['unready'] or
--   [granted, now ms, month, scope, cap, wait ms, [rl, tl, d1..d5, m1] for each scope].
-- The refusal that lasts longest is told; wait -1: it will never fit.
local RECLAIMED_AT_ONCE = 16
local id = ARGV[1]
local caps = cmsgpack.unpack(ARGV[3])
local amounts = {}
for i = 1, 5 do amounts[i] = tonumber(ARGV[i + 4]) end

-- A request that has its mark was settled: its gateway gave this reservation up as lost.
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('EXISTS', 'mark:' .. TAG .. ':' .. id) == 1 then
  return cmsgpack.pack({'unready'})
end
reclaim(RECLAIMED_AT_ONCE)

local day = math.floor(now / DAY_MS)
local month = month_of(day)
local again = redis.call('HEXISTS', LEASES, id) == 1
local refusal = {0, 0, 0}
local states = {}

local function refuse(scope, cap, wait)
  if refusal[3] == -1 then return end
  if wait == -1 or refusal[1] == 0 or wait > refusal[3] then refusal = {scope, cap, wait} end
end

local function fill(scope, cap, filled, amount, per_minute, burst)
  -- A bucket takes `burst` at once, or what is larger once it is empty.
  if per_minute < 0 then return filled end
  if amount > math.max(per_minute, burst) or per_minute == 0 then
    if amount > 0 then refuse(scope, cap, -1) end
  else
    local over = filled + amount - math.max(burst, amount)
    if over > 1e-6 then refuse(scope, cap, math.ceil(over * 60000 / per_minute)) end
  end
  return filled + amount
end

for i, cap in ipairs(caps) do
  local state = standing(KEYS[2 * i + 3], cap, day, month)
  states[i] = state
  if not again then
    if cap[1] >= 0 and redis.call('ZCOUNT', KEYS[2 * i + 4], '(' .. now, '+inf') >= cap[1] then
      refuse(i, 1, cap[1] == 0 and -1 or 1000)
    end
    state[9] = fill(i, 2, state[1], 1, cap[2], cap[3])
    state[10] = fill(i, 4, state[2], amounts[1], cap[4], cap[5])
    for j = 1, 6 do
      local amount = j == 1 and 1 or amounts[j - 1]
      if cap[j + 5] >= 0 and amount > 0 and state[j + 2] + amount > cap[j + 5] then
        -- The month's end is the caller's to compute.
        local wait = j == 6 and DAY_MS * 31 or DAY_MS - now % DAY_MS
        refuse(i, j + 5, amount > cap[j + 5] and -1 or wait)
      end
    end
  end
end

if refusal[1] == 0 and not again then
  for i, state in ipairs(states) do
    state[1], state[2] = state[9], state[10]
    state[3] = state[3] + 1
    for j = 1, 5 do state[j + 3] = state[j + 3] + amounts[j] end
    redis.call('HSET', KEYS[2 * i + 3], 'd', day, 'd1', whole(state[3]), 'd2', whole(state[4]),
      'd3', whole(state[5]), 'd4', whole(state[6]), 'd5', whole(state[7]), 'm', month,
      'm1', whole(state[8]), 'rl', string.format('%.17g', state[1]), 'rt', whole(now_us),
      'tl', string.format('%.17g', state[2]), 'tt', whole(now_us))
    redis.call('ZADD', KEYS[2 * i + 4], now + ARGV[2], id)
  end
  redis.call('ZADD', EXPIRY, now + ARGV[2], id)
  redis.call('HSET', LEASES, id, string.format('{"at":%.0f,"day":%d,"month":%d,', now, day, month)
    .. string.sub(ARGV[4], 2))
end

local reply = {refusal[1] == 0, now, month, refusal[1], refusal[2], refusal[3]}
for i, state in ipairs(states) do
  reply[i + 6] = rounded(state)
end
return cmsgpack.pack(reply)
