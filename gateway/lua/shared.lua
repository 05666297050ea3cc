-- What the scripts share. KEYS: ready, leases, expiry, ledger of one shard; accounts.py has the rest.
-- Amounts come in this order: tokens, images, characters, audio ms, nano-USD. They are whole and
-- below 2^53, which Lua's numbers hold exactly.
local TAG = string.match(KEYS[1], '{.*}')
local LEASES, EXPIRY, LEDGER = KEYS[2], KEYS[3], KEYS[4]
local ABANDONED_MARK_MS = 86400000
local DAY_MS = 86400000

local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local now = math.floor(now_us / 1000)

local function whole(number)
  return string.format('%.0f', number)
end

local function level(stored, at_us, per_minute)
  -- A bucket's level now. It leaks `per_minute`.
  local left = (tonumber(stored) or 0)
    - (now_us - (tonumber(at_us) or now_us)) * per_minute / 60000000
  return left > 0 and left or 0
end

local function month_of(day)
  -- Days since 1970 to year * 12 + month - 1, in the proleptic Gregorian calendar.
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor(
    (doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  -- March is 0 here, so January and February belong to the year that comes.
  return (yoe + era * 400) * 12 + mp + 2
end

local function standing(use, cap, day, month)
  -- What a scope has used: its buckets' levels now, its day, its month.
  local v = redis.call('HMGET', use, 'd', 'd1', 'd2', 'd3', 'd4', 'd5', 'm', 'm1',
    'rl', 'rt', 'tl', 'tt')
  local today, this_month = tonumber(v[1]) == day, tonumber(v[7]) == month
  local state = {level(v[9], v[10], math.max(cap[2], 0)), level(v[11], v[12], math.max(cap[4], 0))}
  for j = 1, 5 do state[j + 2] = today and tonumber(v[j + 1]) or 0 end
  state[8] = this_month and tonumber(v[8]) or 0
  return state
end

local function rounded(state)
  -- A standing as it is told: in whole numbers.
  return {math.ceil(state[1]), math.ceil(state[2]), unpack(state, 3, 8)}
end

local function add(scope, day, month, requests, amounts, tpm)
  -- Add to what a scope used on `day` and in `month`, if its counters are still of then.
  local key = 'use:' .. TAG .. ':' .. scope
  local seen = redis.call('HMGET', key, 'd', 'm', 'tl', 'tt', 'rl')
  local seen_day, seen_month = tonumber(seen[1]) or 0, tonumber(seen[2]) or 0
  if day > seen_day then
    redis.call('HSET', key, 'd', whole(day), 'd1', 0, 'd2', 0, 'd3', 0, 'd4', 0, 'd5', 0)
  end
  if month > seen_month then
    redis.call('HSET', key, 'm', whole(month), 'm1', 0)
  end
  if day >= seen_day then
    if requests ~= 0 then redis.call('HINCRBY', key, 'd1', requests) end
    for i = 1, 4 do
      if amounts[i] ~= 0 then redis.call('HINCRBY', key, 'd' .. (i + 1), whole(amounts[i])) end
    end
  end
  if month >= seen_month and amounts[5] ~= 0 then
    redis.call('HINCRBY', key, 'm1', whole(amounts[5]))
  end
  if requests < 0 then
    redis.call('HSET', key, 'rl', string.format('%.17g', math.max(0, (tonumber(seen[5]) or 0) + requests)))
  end
  if amounts[1] ~= 0 and tpm >= 0 then
    local filled = level(seen[3], seen[4], tpm) + amounts[1]
    redis.call('HSET', key, 'tl', string.format('%.17g', math.max(0, filled)), 'tt', whole(now_us))
  end
end

local function reclaim(most)
  -- End leases whose holder is gone: charge what `on_abandon` says, and record it.
  local dead = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', now, 'LIMIT', 0, most)
  for _, id in ipairs(dead) do
    local text = redis.call('HGET', LEASES, id)
    if text then
      local lease = cjson.decode(text)
      -- First, because a cluster that is moving the shard refuses new keys: then nothing is done.
      redis.call('SET', 'mark:' .. TAG .. ':' .. id, 'a' .. cmsgpack.pack(lease.charged),
        'PX', ABANDONED_MARK_MS)
      redis.call('HDEL', LEASES, id)
      local change = {}
      for i = 1, 5 do change[i] = lease.charged[i] - lease.reserved[i] end
      for i, scope in ipairs(lease.scopes) do
        redis.call('ZREM', 'open:' .. TAG .. ':' .. scope, id)
        add(scope, lease.day, lease.month, 0, change, lease.tpm[i])
      end
      redis.call('XADD', LEDGER, '*', 'at', whole(lease.at), 'r', lease.record)
    end
    redis.call('ZREM', EXPIRY, id)
  end
  return #dead
end
