-- A request that was the first under its key has ended.
-- KEYS  the key     ARGV  ms to keep it, fingerprint, token, `kept`, `lost` or `free`, the answer
-- Gives 1, or 0 when it is not this one that runs: its time was over, or it was concluded before.
if redis.call('GET', KEYS[1]) ~= 'running ' .. ARGV[2] .. ' ' .. ARGV[3] then return 0 end
if ARGV[4] == 'free' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[4] .. ' ' .. ARGV[2] .. ' ' .. ARGV[5], 'PX', ARGV[1])
end
return 1
