-- A permit for one status refresh: from what sends leave of the account's limit, and within the refreshes' own.
-- It is not counted among the sends, so that no send ever waits for a refresh.
--
-- KEYS: the account's list of sends, the refreshes' list, the refreshes' block, the account's block.
-- ARGV: the account's max requests (0: no limit) and window, the refreshes' max requests and window; in microseconds.
-- Answers how many microseconds to wait; 0 when granted.
for block = 3, 4 do
  local blocked = redis.call('PTTL', KEYS[block])
  if blocked > 0 then
    return blocked * 1000
  end
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

-- Entries are "time:messages", oldest first.
local function times_within(key, window)
  local times = {}
  for _, entry in ipairs(redis.call('LRANGE', key, 0, -1)) do
    local at = tonumber(string.match(entry, '(%d+):'))
    if at + window > now then
      times[#times + 1] = at
    end
  end
  return times
end

local account_max, account_window = tonumber(ARGV[1]), tonumber(ARGV[2])
local own_max, own_window = tonumber(ARGV[3]), tonumber(ARGV[4])

local own = times_within(KEYS[2], own_window)
if #own >= own_max then
  return math.min(own[#own - own_max + 1] + own_window - now, own_window)
end
if account_max > 0 then
  local sends = times_within(KEYS[1], account_window)
  if #sends + #own >= account_max then
    return math.max(1, math.ceil(account_window / 10))
  end
end

redis.call('RPUSH', KEYS[2], string.format('%.0f:1', now))
redis.call('LTRIM', KEYS[2], -own_max, -1)
redis.call('PEXPIRE', KEYS[2], math.ceil(own_window / 1000) + 1000)
return 0
