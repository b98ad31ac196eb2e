-- Charge a live reservation with more than it took; denies nothing.
-- KEYS  record, then each dimension's key; a budget's is followed by <key>:o
-- ARGV  now or '', id, most debt in s, lease ms, then per dimension: kind, limit, refill or end, all it is to be charged
-- Gives 1, or 0 when no reservation of that id is live.
local record, id = KEYS[1], ARGV[2]
local now, most_debt, lease = clock(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4])
local stored = redis.call('GET', record)
if not stored or stored == 'done' then return 0 end
local ends, costs = read(stored)
if ends <= now then return 0 end

local k = 1
for i = 1, (#ARGV - 4) / 4 do
  local a = 4 + (i - 1) * 4
  local kind, limit, param, total = ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), ARGV[a + 4]
  k = k + 1
  local key = KEYS[k]
  if kind == 'W' then k = k + 1 end
  if costs[i] ~= '-' and costs[i] ~= total then
    local more = tonumber(total) - tonumber(costs[i])
    if kind == 'B' then
      charge(key, limit, param, now, more, most_debt)
    elseif kind == 'W' and redis.call('ZREM', key .. ':o', id .. ' ' .. costs[i]) == 1 then
      redis.call('ZADD', key .. ':o', whole(ends), id .. ' ' .. total)
      redis.call('HINCRBY', key, 'o', whole(more))
    end
    costs[i] = total
  end
end
write(record, ends, costs, lease)
return 1
