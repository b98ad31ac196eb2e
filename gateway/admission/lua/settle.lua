-- Close a reservation: charge or give back the difference to what was used, free its slots, tell budgets.
-- KEYS  record, then each dimension's key; a budget's is followed by <key>:o
-- ARGV  ms to remember it by, now or '', id, process, ledger, most debt in s,
--       then per dimension: kind, limit, refill or end, amount used, seed, spent (the last two for W
--       of which the process has something to tell, else ''; for B the first is what to charge if nothing was taken
--       here, else '')
-- Gives 1 the first time, 0 when it was settled before, 2 when its lease had ended or it was never made here: then what
-- was taken from buckets stands. The mark stays even then: a reservation that arrives later takes nothing.
local record, id = KEYS[1], ARGV[3]
local now = clock(ARGV[2])
local process, ledger, most_debt = ARGV[4], ARGV[5], tonumber(ARGV[6])

local status, costs = 2, {}
local stored = redis.call('GET', record)
if stored == 'done' then
  status = 0
elseif stored then
  local ends
  ends, costs = read(stored)
  if ends > now then status = 1 end
end
if status ~= 0 then redis.call('SET', record, 'done', 'PX', ARGV[1]) end

local k = 1
for i = 1, (#ARGV - 6) / 6 do
  local a = 6 + (i - 1) * 6
  local kind, limit, param, used = ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  k = k + 1
  local key = KEYS[k]
  if kind == 'W' then
    k = k + 1
    if ARGV[a + 5] ~= '' then tell(key, process, ledger, tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6])) end
    if costs[i] and redis.call('ZREM', key .. ':o', id .. ' ' .. costs[i]) == 1 then
      release(key, costs[i])
    end
    keep(key, param)
  elseif kind == 'C' then
    if status ~= 0 then redis.call('ZREM', key, id) end
  elseif status == 1 and used and costs[i] ~= '-' and used ~= tonumber(costs[i]) then
    charge(key, limit, param, now, used - tonumber(costs[i]), most_debt)
  elseif status ~= 0 and ARGV[a + 5] ~= '' and (costs[i] or '-') == '-' then
    charge(key, limit, param, now, tonumber(ARGV[a + 5]), most_debt)
  end
end
return status
