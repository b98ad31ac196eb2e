"""A model router gateway: one OpenAI-compatible door to every place that serves models."""

__version__ = "0.1.0"
