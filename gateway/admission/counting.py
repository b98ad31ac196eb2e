"""Counts tokens of text with o200k_base, whose ranks are part of this package.

Reads that one file of the package and nothing else: no network, no environment, no cache. The counts are for
reservations and for answers whose backend reported no usage; a backend's own count always wins.
"""

import base64
import gzip
import hashlib
import importlib.resources
import threading

import tiktoken

RANKS = "ranks/o200k_base.tiktoken.gz"
RANKS_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
"""Of the decompressed file, as tiktoken itself states it."""

_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
"""How text is cut into words before ranks apply; part of the encoding's definition, as the ranks are."""
_SLICE = 32_768
"""Characters encoded at once. Uncut, a megabyte of one letter takes a second and a megabyte of spaces panics."""
_WHOLE = 1_048_576
"""Characters up to which all of a text is counted."""
_SAMPLE = 131_072
"""Characters taken from the head, the middle and the tail of a longer text."""
_BYTES_PER_TOKEN = 3
"""Where nothing can be counted. Most text has more bytes per token, so this errs on the side of reserving more."""


class RanksDamaged(Exception):
    """Raised when the rank file of the package is not the one it should be."""


class TokenCounter:
    """Counts tokens once `load` has run; guesses from the bytes before."""

    __slots__ = ("_encoding", "_loading")

    def __init__(self) -> None:
        self._encoding: tiktoken.Encoding | None = None
        self._loading = threading.Lock()

    def load(self) -> None:
        """Read the ranks: about a second of CPU and 80 MB, so call it at start, in a thread. Later calls do nothing.

        Raises `RanksDamaged` when the file does not have the sum that it should have.
        """
        with self._loading:
            if self._encoding is None:
                self._encoding = _load_encoding()

    @property
    def loaded(self) -> bool:
        """Whether counts are real ones."""
        return self._encoding is not None

    def count(self, text: str) -> int:
        """Tokens of `text`; special tokens in it are text. Never raises.

        Pure CPU that releases the GIL: about 50 µs per KB of ordinary text and ten times that at worst, so a caller on
        the event loop moves texts beyond a few KB to a thread. Text is counted in slices of 32 Ki characters, which
        costs a token or so at each cut; beyond 1 Mi characters it is sampled.
        """
        encoding = self._encoding
        if encoding is None:
            return _guess(text)
        if len(text) <= _SLICE:
            return _count_slice(encoding, text)
        if len(text) <= _WHOLE:
            return _count_slices(encoding, text)
        middle = (len(text) - _SAMPLE) // 2
        parts = (text[:_SAMPLE], text[middle : middle + _SAMPLE], text[-_SAMPLE:])
        return sum(_count_slices(encoding, part) for part in parts) * len(text) // (len(parts) * _SAMPLE)


def _count_slices(encoding: tiktoken.Encoding, text: str) -> int:
    return sum(_count_slice(encoding, text[start : start + _SLICE]) for start in range(0, len(text), _SLICE))


def _count_slice(encoding: tiktoken.Encoding, text: str) -> int:
    try:
        return len(encoding.encode_ordinary(text))
    except BaseException as error:
        # A panic in tiktoken's native code is a BaseException of a class that cannot be imported. Text must not be
        # able to end a request with it, and nothing else of that kind (Ctrl-C, cancellation) may be swallowed.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            return _guess(text)
        raise


def _guess(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)


def _load_encoding() -> tiktoken.Encoding:
    file = importlib.resources.files(__package__) / RANKS
    try:
        ranks = gzip.decompress(file.read_bytes())
    except (OSError, EOFError) as error:
        raise RanksDamaged(f"cannot read {RANKS} of the package: {error}; install the gateway again") from error
    digest = hashlib.sha256(ranks).hexdigest()
    if digest != RANKS_SHA256:
        raise RanksDamaged(f"{RANKS} has SHA-256 {digest}, expected {RANKS_SHA256}; install the gateway again")
    pairs = (line.split() for line in ranks.splitlines())
    return tiktoken.Encoding(
        "o200k_base",
        pat_str=_PATTERN,
        mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in pairs},
        special_tokens={},
    )
