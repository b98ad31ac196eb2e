-- Stands before every script: the clock, buckets and budgets.
-- Times are microseconds. A double holds them exactly, but `..` and tostring() print 14 digits: format them instead.

local function clock(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function whole(number) return string.format('%.0f', number) end

-- A bucket's level now, and the time it is of. One that is missing is full, or begins at `start`.
local function bucket(key, limit, refill, now, start)
  local stored = redis.call('GET', key)
  if not stored then return math.min(limit, start or limit), now end
  local level, at = string.match(stored, '^(%S+) (%S+)$')
  level, at = tonumber(level), tonumber(at)
  if now > at then -- a clock that steps back refills nothing, and later nothing twice
    level = level + (now - at) * refill / 1000000
    at = now
  end
  return math.min(level, limit), at
end

-- Kept a minute longer than it takes to fill up.
local function put(key, limit, refill, level, at)
  local lasts = math.ceil((limit - level) / refill * 1000) + 60000
  redis.call('SET', key, string.format('%.17g %.0f', level, at), 'PX', whole(lasts))
end

-- Take `amount` more, or give it back if it is negative: never beyond the capacity, never into endless debt.
local function charge(key, limit, refill, now, amount, most_debt)
  local level, at = bucket(key, limit, refill, now)
  if amount > 0 then
    level = math.max(level - amount, math.min(level, -most_debt * refill))
  else
    level = math.min(level - amount, limit)
  end
  put(key, limit, refill, level, at)
end

-- A budget's hash: n is what all gateways have used, o what is reserved and not settled. Each process tells its own
-- total, `spent`, under g:<process>, and the first time what its ledger knew when it began, `seed`, of which
-- t:<ledger> is what is in n already. So telling a total twice, late or after a flush changes nothing that is right.
local function tell(key, process, ledger, seed, spent)
  local seen = redis.call('HGET', key, 'g:' .. process)
  local more = 0
  if not seen then
    local told = tonumber(redis.call('HGET', key, 't:' .. ledger) or '0')
    more = math.max(0, seed - told)
    seen = '0'
    redis.call('HSET', key, 'g:' .. process, '0')
  end
  if spent > tonumber(seen) then
    more = more + spent - tonumber(seen)
    redis.call('HSET', key, 'g:' .. process, whole(spent))
  end
  if more > 0 then
    redis.call('HINCRBY', key, 'n', whole(more))
    redis.call('HINCRBY', key, 't:' .. ledger, whole(more))
  end
end

-- Take `cost`, a string of digits, out of what is reserved.
local function release(key, cost)
  if cost ~= '0' then redis.call('HINCRBY', key, 'o', '-' .. cost) end -- Redis takes no "-0"
end

-- Give back what was reserved under leases that have ended; up to 100 of them.
local function sweep(key, now)
  local ended = redis.call('ZRANGEBYSCORE', key .. ':o', '-inf', whole(now), 'LIMIT', 0, 100)
  for _, member in ipairs(ended) do
    redis.call('ZREM', key .. ':o', member)
    release(key, string.match(member, ' (%d+)$'))
  end
  return #ended == 100
end

local function used_of(key)
  local parts = redis.call('HMGET', key, 'n', 'o')
  return tonumber(parts[1] or '0') + tonumber(parts[2] or '0')
end

-- A period's counter still takes late settlements for a day after its end.
local function keep(key, ends)
  local until_ms = whole(ends + 86400000)
  redis.call('PEXPIREAT', key, until_ms)
  redis.call('PEXPIREAT', key .. ':o', until_ms)
end

-- A record is "<end of the lease> <cost> <cost> …"; `-` for what was not taken here.
local function read(record)
  local costs, ends = {}, nil
  for word in string.gmatch(record, '%S+') do
    if ends then costs[#costs + 1] = word else ends = tonumber(word) end
  end
  return ends, costs
end

-- It outlives its lease, so that a late settlement is known as one.
local function write(key, ends, costs, lease_ms)
  redis.call('SET', key, whole(ends) .. ' ' .. table.concat(costs, ' '), 'PX', whole(lease_ms + 600000))
end
