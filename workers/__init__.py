"""Inference workers of our own: each its own process behind its own HTTP server."""
