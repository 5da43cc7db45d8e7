-- Replace what a request reserved by what it used. Told again, because the answer was lost, it
-- changes nothing.
--
-- KEYS[1] what the instance that reserved it holds: request id -> its record
-- KEYS[2] the requests of that instance that were settled last
-- KEYS[3+] the counters of days, months and ever that the request fell under
-- ARGV[1] request id
-- ARGV[2] `settle`, or `release` to replace what is held, and no more
-- ARGV[3] what was used, as JSON: {metric: amount}
-- ARGV[4+] the metric of each of KEYS[3+]
--
-- Counters that a record names are not among the keys; all keys share one hash tag.

local REMEMBERED = 4096
local HOUR_S = 3600
local held, settled = KEYS[1], KEYS[2]
local request_id, how = ARGV[1], ARGV[2]
local used = cjson.decode(ARGV[3])

local function whole(number)
  return string.format('%.0f', number)
end

-- A bucket that has grown too old is not there any more, and need not be.
local function change_minute(key, second, change)
  local bucket = redis.call('HGET', key, second)
  if bucket then
    local amount, last = bucket:match('(%d+) (%d+)')
    redis.call('HSET', key, second, whole(math.max(0, amount + change)) .. ' ' .. last)
  end
end

-- A number that is not there is asked of the ledger when it is needed.
local function change_number(key, change)
  if redis.call('EXISTS', key) == 1 and redis.call('INCRBY', key, whole(change)) < 0 then
    redis.call('SET', key, 0, 'KEEPTTL')
  end
end

-- Demands on one counter were added up; what was used of it counts once.
local counted = {}
local function replace(key, period, metric, amount, second)
  local change = -amount
  if period ~= 'now' and not counted[key] then change = change + (used[metric] or 0) end
  counted[key] = true
  if change == 0 then return end
  if period == 'minute' then
    change_minute(key, second, change)
  else
    change_number(key, change)
  end
end

local record = redis.call('HGET', held, request_id)
if record then
  redis.call('HDEL', held, request_id)
  for _, taken in ipairs(cjson.decode(record)) do replace(unpack(taken)) end
elseif how == 'settle' and not redis.call('LPOS', settled, request_id) then
  -- Reserved while Redis was away, or forgotten by it: what was used counts all the same.
  for i = 3, #KEYS do change_number(KEYS[i], used[ARGV[i + 1]] or 0) end
end

-- One of a server that was taken for dead may have settled already, by the ledger: if that server
-- comes back and tells it as well, it has been counted.
if how == 'settle' or (record and next(used)) then
  redis.call('LPUSH', settled, request_id)
  redis.call('LTRIM', settled, 0, REMEMBERED - 1)
  redis.call('EXPIRE', settled, HOUR_S)
end
