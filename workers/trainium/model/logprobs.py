"""Log-probabilities of tokens, read on the host from logits that stay on the device unless somebody asks."""

import numpy as np
import numpy.typing as npt

from workers.trainium.engine.sequences import Logprobs


def read_logprobs(logits: npt.NDArray[np.float32], token: int, top: int) -> Logprobs:
    """The chosen token's log-probability and the `top` most likely tokens', from one row of logits (vocabulary,)."""
    wide = logits.astype(np.float64)
    peak = wide.max()
    values = wide - (peak + np.log(np.exp(wide - peak).sum()))
    likely = np.argpartition(values, -top)[-top:] if top else np.empty(0, np.intp)
    # Likeliest first, the lower id among equals: as greedy chooses.
    order = sorted((int(index) for index in likely), key=lambda index: (-values[index], index))
    return Logprobs(float(values[token]), tuple((index, float(values[index])) for index in order))
