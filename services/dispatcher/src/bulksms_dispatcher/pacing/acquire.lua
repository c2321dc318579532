-- A slot for one provider request in the window of every scope, or in none; answers from when it may be sent.
--
-- An entry of a scope is "id:messages"; its score is the latest moment (Redis's own time, microseconds) at which the
-- request can have arrived at the provider: until it is known (release_slots.lua), the end of the time in which it must
-- have begun. It counts for a window from there. A new request is not sent before slots are free, so that however long
-- each of them takes on its way, the provider never counts more than `max` in any window.
--
-- KEYS: a sorted set per scope, the account's first; the account's slowdown; every block that applies.
-- ARGV: id, messages, how long a permit may wait to be begun, how far ahead it may be given, the time a slowed account
-- takes to come back by its whole rate, the share of the account's limits that is for this kind of request, number of
-- scopes; then per scope: max requests, max messages (each -1: no limit; 0: none may be sent), window. Times in
-- microseconds.
-- Answers {1, microseconds until it may be sent, 0} or, refused, {0, microseconds to wait, the scope (0: a block)}.
local id, messages = ARGV[1], tonumber(ARGV[2])
local ttl, ahead, recovery = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local share, scopes = tonumber(ARGV[6]), tonumber(ARGV[7])
local SHORTEST_WAIT = 1000

-- After a 429 or a refused key the account rests; the block's own expiry says for how long.
for key = scopes + 2, #KEYS do
  local blocked = redis.call('PTTL', KEYS[key])
  if blocked > 0 then
    return {0, blocked * 1000, 0}
  end
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

-- What takes only a share gets one request at a time where there is no room for more, rather than none for ever.
if share < 1 then
  local since = string.format('(%.0f', now - tonumber(ARGV[scopes * 3 + 7]))
  share = redis.call('ZCOUNT', KEYS[scopes], since, '+inf') > 0 and share or 1
end
-- What is left of the account's limits after a 429: `share` until `halved_until`, then more in proportion to the time.
local slowed = redis.call('HMGET', KEYS[scopes + 1], 'share', 'halved_until')
if slowed[1] then
  share = share * math.min(1, tonumber(slowed[1]) + math.max(0, now - tonumber(slowed[2])) / recovery)
end

local function limits_of(scope)
  local max_requests = tonumber(ARGV[scope * 3 + 5])
  local max_messages = tonumber(ARGV[scope * 3 + 6])
  if scope == 1 and share < 1 then
    -- Never less than one: the account must go on to find out that it may.
    max_requests = max_requests > 0 and math.max(1, math.floor(max_requests * share)) or max_requests
    max_messages = max_messages > 0 and math.max(1, math.floor(max_messages * share)) or max_messages
  end
  return max_requests, max_messages, tonumber(ARGV[scope * 3 + 7])
end

-- When the last of the slots that must become free is free; of one whose request is in flight only a bound is known.
local function free_at(key, max_requests, max_messages, window)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - window))
  -- After a failover Redis's clock may have gone back: what lies too far ahead cannot be reckoned with.
  redis.call('ZREMRANGEBYSCORE', key, string.format('(%.0f', now + ahead + ttl), '+inf')
  local at = now
  local over = redis.call('ZCARD', key) - max_requests
  if max_requests > 0 and over >= 0 then
    at = tonumber(redis.call('ZRANGE', key, over, over, 'WITHSCORES')[2]) + window
  end
  -- A request larger than the limit passes alone, when the window is empty: else it would wait for ever.
  local wanted = math.min(messages, max_messages)
  if max_messages > 0 and wanted > 0 then
    local entries = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    local sum, weights = wanted, {}
    for i = 1, #entries, 2 do
      weights[i] = math.min(tonumber(string.match(entries[i], ':(%d+)$')), max_messages)
      sum = sum + weights[i]
    end
    for i = 1, #entries, 2 do
      if sum <= max_messages then
        break
      end
      sum = sum - weights[i]
      at = math.max(at, tonumber(entries[i + 1]) + window)
    end
  end
  return at
end

-- Where none may be sent, no slot ever becomes free: it is asked again a window later.
for scope = 1, scopes do
  local max_requests, max_messages, window = limits_of(scope)
  if max_requests == 0 or (max_messages == 0 and messages > 0) then
    return {0, math.max(SHORTEST_WAIT, window), scope}
  end
end

local begins_at, longest, refused_by = now, 0, 0
for scope = 1, scopes do
  local max_requests, max_messages, window = limits_of(scope)
  if max_requests > 0 or max_messages > 0 then
    local at = free_at(KEYS[scope], max_requests, max_messages, window)
    begins_at = math.max(begins_at, at)
    if at > now + ahead then
      -- What is under way arrives soon, and is free a window later: never longer than that.
      local wait = math.max(SHORTEST_WAIT, math.min(at - now, window) - ahead)
      if wait > longest then
        longest, refused_by = wait, scope
      end
    end
  end
end
if refused_by > 0 then
  return {0, longest, refused_by}
end

for scope = 1, scopes do
  local max_requests, max_messages, window = limits_of(scope)
  if max_requests > 0 or max_messages > 0 then
    redis.call('ZADD', KEYS[scope], string.format('%.0f', begins_at + ttl), id .. ':' .. messages)
    redis.call('PEXPIRE', KEYS[scope], math.ceil((window + ahead + ttl) / 1000) + 1000)
  end
end
return {1, begins_at - now, 0}
