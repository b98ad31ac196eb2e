-- A request that was the first under its key has ended.
-- KEYS  the key     ARGV  ms to keep it, fingerprint, token, `kept`, `lost` or `free`, the answer
-- Gives 1, or 0 when another one runs or was answered meanwhile, or when it was concluded before. Where nothing is known
-- (it began while nobody could ask here, or the keys are gone) its answer is kept all the same.
local stored = redis.call('GET', KEYS[1])
if stored and stored ~= 'running ' .. ARGV[2] .. ' ' .. ARGV[3] then return 0 end
if ARGV[4] == 'free' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[4] .. ' ' .. ARGV[2] .. ' ' .. ARGV[5], 'PX', ARGV[1])
end
return 1
