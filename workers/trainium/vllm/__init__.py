"""The other engine: a `vllm serve` that we start, watch, restart and speak for. Big models on Trn2, Trn3 and Nvidia."""
