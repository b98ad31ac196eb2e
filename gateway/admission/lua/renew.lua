-- Move the end of a lease, or, where the record is gone though its holder lives, put it back.
-- KEYS  record, then each dimension's key; a budget's is followed by <key>:o
-- ARGV  lease ms, now or '', id, '1' to put back what is gone or '', then per dimension: kind, cost (`-` not taken here)
-- Gives 1, or 0 when no reservation of that id is live.
local record, id = KEYS[1], ARGV[3]
local lease, now = tonumber(ARGV[1]), clock(ARGV[2])
local stored = redis.call('GET', record)
if stored == 'done' then return 0 end
local ends, costs = now + lease * 1000, {}
if stored then
  local before
  before, costs = read(stored)
  if before <= now then return 0 end
  ends = math.max(ends, before)
elseif ARGV[4] == '' then
  return 0
end

local k = 1
for i = 1, (#ARGV - 4) / 2 do
  local kind, cost = ARGV[3 + i * 2], ARGV[4 + i * 2]
  k = k + 1
  local key = KEYS[k]
  if kind == 'W' then k = k + 1 end
  if not stored then costs[i] = cost end
  if kind == 'C' then
    redis.call('ZADD', key, whole(ends), id)
    redis.call('PEXPIRE', key, whole(lease * 2 + 60000))
  elseif kind == 'W' and costs[i] ~= '-' then
    local member = id .. ' ' .. costs[i]
    if stored then
      redis.call('ZADD', key .. ':o', 'XX', whole(ends), member)
    elseif redis.call('ZADD', key .. ':o', whole(ends), member) == 1 then
      redis.call('HINCRBY', key, 'o', costs[i])
    end
  end
end
write(record, ends, costs, lease)
return 1
