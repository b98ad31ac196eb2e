"""What a request may take: estimates, reservations and limits. Knows no backend, no HTTP and no ledger."""
