"""The only tensor code of the worker: weights, the forward pass, sampling, and the runner that owns device memory."""
