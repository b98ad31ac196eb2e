-- Tell a budget what this process and its ledger have used.
-- KEYS  the budget's key     ARGV  process, ledger, end of the period in ms, seed, spent
tell(KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]))
keep(KEYS[1], tonumber(ARGV[3]))
return used_of(KEYS[1])
