-- Add what a ledger's next rows come to to its totals, once.
-- KEYS  how far each ledger has come, then the totals of each day
-- ARGV  ledger, the row from behind which this is, the row up to which it is,
--       then per day: ms since the epoch at which it may be forgotten, number of fields, and field, amount for each
-- Gives how far the ledger has come: what was asked for if this was added, and where to go on from if it was not,
-- because it was delivered before or because these totals are gone or older.
local come = redis.call('HGET', KEYS[1], ARGV[1]) or '0'
if come ~= ARGV[2] then return come end
local a = 4
for day = 2, #KEYS do
  local until_ms, fields = ARGV[a], tonumber(ARGV[a + 1])
  a = a + 2
  for _ = 1, fields do
    -- As texts: a double has no room for all nano-dollars.
    redis.call('HINCRBY', KEYS[day], ARGV[a], ARGV[a + 1])
    a = a + 2
  end
  redis.call('PEXPIREAT', KEYS[day], until_ms)
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return ARGV[3]
