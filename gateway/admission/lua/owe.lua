-- Charge a bucket, once, with what a process granted of it without asking; or give back what it did not need.
-- KEYS  mark, the bucket's key     ARGV  ms to keep the mark, now or '', limit, refill per s, amount, most debt in s
if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) then return 0 end
charge(KEYS[2], tonumber(ARGV[3]), tonumber(ARGV[4]), clock(ARGV[2]), tonumber(ARGV[5]), tonumber(ARGV[6]))
return 1
