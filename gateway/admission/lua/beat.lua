-- Say that this process lives; gives how many do.
-- KEYS  the set of processes     ARGV  process, ms after which one that says nothing is not counted, '' or '1' to leave
local now = clock('')
if ARGV[3] == '1' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], whole(now), ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now - tonumber(ARGV[2]) * 1000))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
