"""How we prove to a backend who we are: secrets that stand fast, and tokens and signatures that have to be renewed."""
