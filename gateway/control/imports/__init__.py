"""Other gateways' configurations → ours. Pure but for the command; what cannot be carried is said, by its place."""
