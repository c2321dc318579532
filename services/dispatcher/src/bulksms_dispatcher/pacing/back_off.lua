-- The provider said 429: the account rests, and its rate is halved, then comes back little by little.
--
-- KEYS: the account's slowdown, the account's block.
-- ARGV: rest, how long the rate stays halved, time to come back by the whole rate, window; all in microseconds.
-- Answers the account's share of its limits from now on, in thousandths.
local rest, halved_for, recovery, window = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

if redis.call('PTTL', KEYS[2]) < rest / 1000 then
  redis.call('SET', KEYS[2], '1', 'PX', math.max(1, math.ceil(rest / 1000)))
end

local share, halved_until, quiet_until = 1, now, 0
local slowed = redis.call('HMGET', KEYS[1], 'share', 'halved_until', 'quiet_until')
if slowed[1] then
  halved_until, quiet_until = tonumber(slowed[2]), tonumber(slowed[3])
  share = math.min(1, tonumber(slowed[1]) + math.max(0, now - halved_until) / recovery)
end
-- One burst brings many 429: those of requests sent before the last halving say nothing about the halved rate.
if now >= quiet_until then
  share = math.max(share / 2, 1 / 64)
  quiet_until = now + rest + window
  halved_until = now + rest + halved_for
  redis.call('HSET', KEYS[1], 'share', string.format('%.6f', share), 'halved_until', string.format('%.0f', halved_until),
    'quiet_until', string.format('%.0f', quiet_until))
  redis.call('PEXPIRE', KEYS[1], math.ceil((rest + halved_for + recovery) / 1000))
end
return math.floor(share * 1000)
