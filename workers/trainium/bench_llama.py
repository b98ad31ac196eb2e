"""A llama.cpp server in a process of its own, for `bench` to measure beside ours.

One thread: with more, llama.cpp's threads spin while they wait for one another, and its CPU time says less of its work.
"""

import sys
import threading


def main(path: str, slots: int, context: int) -> None:
    """Serve a GGUF file, print the address, and go on until killed."""
    import xllamacpp  # type: ignore[import-untyped]  # it has no types

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_parallel, params.n_ctx = slots, context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.port = 0
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(f"listening {server.listening_address}", flush=True)  # noqa: T201  # what `bench` waits for
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
