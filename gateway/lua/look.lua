-- Tell where scopes stand, and how many live leases each has; take nothing.
-- KEYS after the shard's: use, open for each scope. ARGV: caps of the scopes (MessagePack).
-- Returns MessagePack: ['unready'] or [now ms, month, [rl, tl, d1..d5, m1, leases] for each scope].
if redis.call('EXISTS', KEYS[1]) == 0 then return cmsgpack.pack({'unready'}) end
local day = math.floor(now / DAY_MS)
local month = month_of(day)
local reply = {now, month}
for i, cap in ipairs(cmsgpack.unpack(ARGV[1])) do
  local state = rounded(standing(KEYS[2 * i + 3], cap, day, month))
  state[9] = redis.call('ZCOUNT', KEYS[2 * i + 4], '(' .. now, '+inf')
  reply[i + 2] = state
end
return cmsgpack.pack(reply)
