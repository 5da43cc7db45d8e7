-- Take every demand of a request, or none of them. Redis runs one script at a time, so nobody
-- comes in between.
--
-- KEYS[1]  what this instance holds: request id -> its record
-- KEYS[2]  the sign that this instance lives
-- KEYS[3]  all instances
-- KEYS[4+] the counter of each demand
-- ARGV[1]  the time in microseconds; empty for Redis's own
-- ARGV[2]  request id
-- ARGV[3]  instance id
-- ARGV[4]  how many seconds the sign of life lasts
-- ARGV[5]  demands as JSON: [[period, metric, limit, amount, left, seed], ...]
--          left: microseconds until the day or month ends, -1 for what never does
--          seed: what the ledger says was used of it, -1 when it was not asked
--
-- Returns {-1, number of a demand whose counter needs a seed, ...}, or
--         {1 when reserved and 0 when refused, then of each demand: used, reset, wait}
--         reset, wait: microseconds, -1 is for ever; a wait of -2 is none: the demand fits

local SECOND = 1000000
local MINUTE = 60 * SECOND
local DAY_S = 86400
local held, alive, instances = KEYS[1], KEYS[2], KEYS[3]
local request_id, instance_id = ARGV[2], ARGV[3]

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * SECOND + time[2]
end

-- A number as Redis keeps it; Lua's own way loses digits after the 14th.
local function whole(number)
  return string.format('%.0f', number)
end

-- A minute: a hash of second -> "amount, and when the last of it was taken". A bucket counts until
-- its youngest part is 60 seconds old, so never too short. Either way: a clock that was set back
-- must not keep it for longer.
local function read_minute(key)
  local counter = { used = 0, newest = 0, buckets = {} }
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    local amount, last = fields[i + 1]:match('(%d+) (%d+)')
    amount, last = tonumber(amount), tonumber(last)
    if math.abs(now - last) < MINUTE then
      counter.used = counter.used + amount
      if amount > 0 then counter.newest = math.max(counter.newest, last) end
      table.insert(counter.buckets, { amount = amount, last = last })
    else
      redis.call('HDEL', key, fields[i])
    end
  end
  return counter
end

-- A day, a month or ever: a number. Nil while nobody has asked the ledger what was used already.
local function read_total(key, left, seed)
  local used = redis.call('GET', key)
  if not used and seed >= 0 then
    redis.call('SET', key, whole(seed), 'EX', whole(left / SECOND + DAY_S))
    used = seed
  end
  return used and { used = tonumber(used), left = left }
end

local function read(key, period, left, seed)
  if period == 'minute' then return read_minute(key) end
  if period == 'now' then return { used = tonumber(redis.call('GET', key) or 0) } end
  return read_total(key, left, seed)
end

-- How long until `excess` of a counter is free again.
local function wait(counter, period, excess)
  if excess > counter.used then return -1 end
  if period == 'now' then return SECOND end
  if counter.left then return counter.left end
  -- Only here: to sort a minute takes longer than all the rest.
  table.sort(counter.buckets, function(a, b) return a.last < b.last end)
  for _, bucket in ipairs(counter.buckets) do
    excess = excess - bucket.amount
    if excess <= 0 then return bucket.last + MINUTE - now end
  end
  return MINUTE
end

-- How long until all of a counter is free again.
local function reset(counter, period)
  if counter.used == 0 then return 0 end
  if period == 'now' then return SECOND end
  if counter.left then return counter.left end
  return counter.newest + MINUTE - now
end

-- Add to a counter; returns the second that a minute keeps it in.
local function take(key, period, amount)
  if period == 'minute' then
    local second = whole(math.floor(now / SECOND))
    local kept = (redis.call('HGET', key, second) or '0'):match('%d+')
    redis.call('HSET', key, second, whole(kept + amount) .. ' ' .. whole(now))
    redis.call('EXPIRE', key, 61)
    return second
  end
  redis.call('INCRBY', key, whole(amount))
  -- Nobody holds anything for a day, and of what was ever used the ledger knows.
  if period == 'now' or period == 'ever' then redis.call('EXPIRE', key, DAY_S) end
  return ''
end

local demands = cjson.decode(ARGV[5])
local counters, unknown = {}, { -1 }
for i, demand in ipairs(demands) do
  local period, _, _, amount, left, seed = unpack(demand)
  local key = KEYS[i + 3]
  counters[key] = counters[key] or read(key, period, left, seed)
  if counters[key] then
    counters[key].asked = (counters[key].asked or 0) + amount
  else
    table.insert(unknown, i)
  end
end
if #unknown > 1 then return unknown end

-- A request that holds its demands was sent twice, because the first answer was lost.
local known = redis.call('HEXISTS', held, request_id) == 1
local reserved, waits = 1, {}
for i, demand in ipairs(demands) do
  local period, _, limit = unpack(demand)
  local counter = counters[KEYS[i + 3]]
  local excess = counter.used + counter.asked - limit
  waits[i] = -2
  if excess > 0 and not known then
    reserved = 0
    waits[i] = wait(counter, period, excess)
  end
end

if reserved == 1 and not known then
  local record = {}
  for i, demand in ipairs(demands) do
    local period, metric, _, amount = unpack(demand)
    local key = KEYS[i + 3]
    local counter = counters[key]
    local second = take(key, period, amount)
    record[i] = { key, period, metric, whole(amount), second }
    counter.used = counter.used + amount
    if amount > 0 then counter.newest = now end
  end
  redis.call('HSET', held, request_id, cjson.encode(record))
  if redis.call('HLEN', held) == 1 then
    -- Who holds something must be known, also when Redis has just come back empty.
    redis.call('EXPIRE', held, DAY_S)
    redis.call('SADD', instances, instance_id)
    redis.call('SET', alive, 1, 'EX', ARGV[4])
  end
end

local answer = { reserved }
for i, demand in ipairs(demands) do
  local counter = counters[KEYS[i + 3]]
  table.insert(answer, counter.used)
  table.insert(answer, reset(counter, demand[1]))
  table.insert(answer, waits[i])
end
return answer
