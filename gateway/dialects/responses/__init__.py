"""OpenAI's Responses: as clients call it, and as backends serve it. Nothing is stored. Does no I/O."""
