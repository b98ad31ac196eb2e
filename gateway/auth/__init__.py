"""API keys: from a request's headers to the tenant's key, in memory, fed from configuration and the key store."""
