-- What is known of a request under its client's key; if nothing is, it is to be run by whoever asks.
-- KEYS  the key     ARGV  ms that running it may take, fingerprint, token of whoever asks
-- Gives what is known in a word, and the answer behind `kept`.
local stored = redis.call('GET', KEYS[1])
if not stored then
  redis.call('SET', KEYS[1], 'running ' .. ARGV[2] .. ' ' .. ARGV[3], 'PX', ARGV[1])
  return {'first'}
end
local state, fingerprint, rest = string.match(stored, '^(%a+) (%x+) ?(.*)$')
if fingerprint ~= ARGV[2] then return {'other'} end
if state == 'running' and rest == ARGV[3] then return {'first'} end -- asked twice, for a reply that was lost
if state == 'kept' then return {'kept', rest} end
return {state}
