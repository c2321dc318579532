-- What became of places that acquire.lua gave: their requests have arrived, or were never sent.
--
-- KEYS: the scope of each place. ARGV: for each its entry, and how many microseconds ago its request had arrived at the
-- latest; -1: nothing was sent, the place is free again. A place that is forgotten (FLUSHALL) stays so.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
for place = 1, #KEYS do
  local entry, ago = ARGV[place * 2 - 1], tonumber(ARGV[place * 2])
  if ago < 0 then
    redis.call('ZREM', KEYS[place], entry)
  else
    redis.call('ZADD', KEYS[place], 'XX', string.format('%.0f', now - ago), entry)
  end
end
