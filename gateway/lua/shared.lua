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
    redis.call('ZREM', EXPIRY, id)
    if text then
      redis.call('HDEL', LEASES, id)
      local lease = cjson.decode(text)
      local change = {}
      for i = 1, 5 do change[i] = lease.charged[i] - lease.reserved[i] end
      for i, scope in ipairs(lease.scopes) do
        redis.call('ZREM', 'open:' .. TAG .. ':' .. scope, id)
        add(scope, lease.day, lease.month, 0, change, lease.tpm[i])
      end
      redis.call('XADD', LEDGER, '*', 'at', whole(lease.at), 'r', lease.record)
      redis.call('SET', 'mark:' .. TAG .. ':' .. id, 'a' .. cmsgpack.pack(lease.charged),
        'PX', ABANDONED_MARK_MS)
    end
  end
  return #dead
end
