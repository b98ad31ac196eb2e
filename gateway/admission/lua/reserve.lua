-- Take from all dimensions or from none.
-- KEYS  record, generation, then each dimension's key; a budget's is followed by <key>:o
-- ARGV  lease ms, now or '', id, known generation or '', new generation, process, ledger,
--       then per dimension: kind (B bucket, W budget, C slots), limit, refill per s or end of the period in ms, cost,
--       and for B the level to begin with or '', for W seed and spent (B and C: '' in their place)
-- Gives {1 granted | 0 denied | 2 granted before and live | 4 granted before and closed, generation, wait us (-1: never),
-- denied dimension, then per dimension what remains and us until it is full}, or {3, generation} when the keys are not those that the caller knew.
local record, id = KEYS[1], ARGV[3]
local lease, now = tonumber(ARGV[1]), clock(ARGV[2])
local process, ledger = ARGV[6], ARGV[7]

local generation = redis.call('GET', KEYS[2])
if ARGV[4] ~= '' and generation ~= ARGV[4] then return {3, generation or ''} end
if not generation then
  generation = ARGV[5]
  redis.call('SET', KEYS[2], generation)
end

local before = redis.call('GET', record)
local given_before = before and 4
if before and before ~= 'done' and read(before) > now then given_before = 2 end
local count = (#ARGV - 7) / 6
local keys, levels, ats = {}, {}, {}
local out = {0, generation, 0, 0}
local longest, worst = 0, 0

-- 1. Check everything.
local k = 2
for i = 1, count do
  local a = 7 + (i - 1) * 6
  local kind, limit, param, cost = ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  k = k + 1
  local key = KEYS[k]
  keys[i] = key
  local wait, remains, reset = 0, 0, 0
  if kind == 'B' then
    local level, at = bucket(key, limit, param, now, tonumber(ARGV[a + 5]))
    levels[i], ats[i] = level, at
    if level + 0.000001 < cost then
      wait = cost > limit and math.huge or math.ceil((cost - level) / param * 1000000)
    end
    remains, reset = math.floor(level + 0.000001), (limit - level) / param * 1000000
  elseif kind == 'W' then
    k = k + 1
    tell(key, process, ledger, tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6]))
    local more = sweep(key, now)
    while more and used_of(key) + cost > limit do more = sweep(key, now) end
    keep(key, param)
    local used = used_of(key)
    levels[i] = used
    if used + cost > limit then wait = cost > limit and math.huge or math.max(1, param * 1000 - now) end
    remains, reset = limit - used, math.max(0, param * 1000 - now)
  else
    redis.call('ZREMRANGEBYSCORE', key, '-inf', whole(now))
    local held = redis.call('ZCARD', key)
    levels[i] = held
    if held >= limit then wait = 1000000 end -- nobody knows when a slot frees
    remains = limit - held
  end
  if wait > longest then longest, worst = wait, i end
  out[3 + i * 2], out[4 + i * 2] = remains, math.floor(reset)
end
if given_before then
  out[1] = given_before
  return out
end
if worst ~= 0 then
  out[3] = longest == math.huge and -1 or longest
  out[4] = worst
  return out
end

-- 2. Take everything.
local ends = now + lease * 1000
local costs = {}
for i = 1, count do
  local a = 7 + (i - 1) * 6
  local key, kind, limit, param = keys[i], ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local cost = tonumber(ARGV[a + 4])
  costs[i] = ARGV[a + 4]
  if kind == 'B' then
    local level = levels[i] - cost
    put(key, limit, param, level, ats[i])
    out[3 + i * 2] = math.floor(level + 0.000001)
    out[4 + i * 2] = math.floor((limit - level) / param * 1000000)
  elseif kind == 'W' then
    redis.call('HINCRBY', key, 'o', ARGV[a + 4])
    redis.call('ZADD', key .. ':o', whole(ends), id .. ' ' .. ARGV[a + 4])
    keep(key, param)
    out[3 + i * 2] = limit - levels[i] - cost
  else
    redis.call('ZADD', key, whole(ends), id)
    redis.call('PEXPIRE', key, whole(lease * 2 + 60000))
    out[3 + i * 2] = limit - levels[i] - 1
  end
end
write(record, ends, costs, lease)
out[1] = 1
return out
