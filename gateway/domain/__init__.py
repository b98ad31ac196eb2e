"""The nouns of the gateway and the pure decisions about them. No clock, no I/O; standard library and msgspec only."""
