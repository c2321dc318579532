-- Permits for one provider request of ARGV[1] messages, for all scopes or for none; answers how long to wait.
-- Exact: at most `max` in any window of Redis's own time, because every permit of the last window is remembered.
--
-- KEYS: one list per scope, the account's first; then the account's slowdown and, as last key, its block.
-- ARGV: messages, then per scope: max requests (0: no limit), max messages (0: no limit), window in microseconds; last,
-- the time a slowed account takes to come back by its whole rate, in microseconds.
-- Answers {0, 0} when granted, else {microseconds to wait, number of the scope that refused (0: the block)}.
local messages = tonumber(ARGV[1])
local scopes = #KEYS - 2

-- After a 429 or a refused key the account rests; the block's own expiry says for how long.
local blocked = redis.call('PTTL', KEYS[#KEYS])
if blocked > 0 then
  return {blocked * 1000, 0}
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local longest, refused_by = 0, 0

-- What is left of the account's limits after a 429: `share` until `held_until`, then more in proportion to the time.
local share = 1
local slowed = redis.call('HMGET', KEYS[#KEYS - 1], 'share', 'held_until')
if slowed[1] then
  share = math.min(1, tonumber(slowed[1]) + math.max(0, now - tonumber(slowed[2])) / tonumber(ARGV[#ARGV]))
end

local function limits_of(scope)
  local max_requests = tonumber(ARGV[scope * 3 - 1])
  local max_messages = tonumber(ARGV[scope * 3])
  if scope == 1 and share < 1 then
    -- Never less than one: the account must go on to find out that it may.
    max_requests = max_requests > 0 and math.max(1, math.floor(max_requests * share)) or 0
    max_messages = max_messages > 0 and math.max(1, math.floor(max_messages * share)) or 0
  end
  return max_requests, max_messages, tonumber(ARGV[scope * 3 + 1])
end

for scope = 1, scopes do
  local key = KEYS[scope]
  local max_requests, max_messages, window = limits_of(scope)
  if max_requests > 0 or max_messages > 0 then
    -- An entry is "time:messages"; the list is in order of time.
    local entries = redis.call('LRANGE', key, 0, -1)
    local expired, sum = 0, 0
    local times, weights = {}, {}
    for _, entry in ipairs(entries) do
      local at, weight = string.match(entry, '(%d+):(%d+)')
      at, weight = tonumber(at), tonumber(weight)
      if at + window <= now then
        expired = expired + 1
      else
        times[#times + 1], weights[#weights + 1] = at, weight
        sum = sum + weight
      end
    end
    if expired > 0 then
      redis.call('LTRIM', key, expired, -1)
    end
    local free_at = 0
    if max_requests > 0 and #times >= max_requests then
      free_at = times[#times - max_requests + 1] + window
    end
    -- A request larger than the limit passes alone, when the window is empty: else it would wait for ever.
    local wanted = math.min(messages, max_messages)
    if max_messages > 0 and sum + wanted > max_messages then
      local left = sum
      for i = 1, #times do
        left = left - weights[i]
        if left + wanted <= max_messages then
          free_at = math.max(free_at, times[i] + window)
          break
        end
      end
    end
    -- Never longer than a window: after a failover Redis's clock may have gone back.
    local wait = math.min(free_at - now, window)
    if wait > longest then
      longest, refused_by = wait, scope
    end
  end
end

if refused_by > 0 then
  return {longest, refused_by}
end

for scope = 1, scopes do
  local key = KEYS[scope]
  local max_requests, max_messages, window = limits_of(scope)
  if max_requests > 0 or max_messages > 0 then
    local weight = max_messages > 0 and math.min(messages, max_messages) or messages
    redis.call('RPUSH', key, string.format('%.0f:%d', now, weight))
    redis.call('PEXPIRE', key, math.ceil(window / 1000) + 1000)
  end
end
return {0, 0}
