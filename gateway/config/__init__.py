"""What the operator wrote, files and environment, as checked and immutable values. Knows nothing of requests."""
