"""The way to backends: connections, egress checks, credentials. Knows HTTP, but no dialect and no other stage."""
