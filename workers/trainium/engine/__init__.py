"""What runs next, and when a sequence ends. No tensor library, no clock, no I/O."""
