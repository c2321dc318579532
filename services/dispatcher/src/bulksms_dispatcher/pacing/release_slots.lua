-- What became of slots that acquire.lua gave: their requests have arrived, or were never sent.
--
-- KEYS: the scope of each slot. ARGV: for each its entry, and how many microseconds ago its request had arrived at the
-- latest; -1: nothing was sent, the slot is free again. A slot that is forgotten (FLUSHALL) stays so.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
for slot = 1, #KEYS do
  local entry, ago = ARGV[slot * 2 - 1], tonumber(ARGV[slot * 2])
  if ago < 0 then
    redis.call('ZREM', KEYS[slot], entry)
  else
    redis.call('ZADD', KEYS[slot], 'XX', string.format('%.0f', now - ago), entry)
  end
end
