"""Counts tokens of text with o200k_base, whose ranks are part of this package.

Reads that one file of the package and nothing else: no network, no environment, no cache. The counts are for
reservations and for answers whose backend reported no usage; a backend's own count always wins. So they are seldom
needed, and the ranks are in memory only while they are.
"""

import binascii
import contextlib
import ctypes
import gzip
import hashlib
import importlib.resources
import itertools
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
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


REST_S: Final = 60.0
"""Ranks that nobody used for so long are given back."""


def check() -> None:
    """See that the package's ranks are as they should be: 20 ms of CPU. Raises RanksDamaged."""
    _read_ranks()


class TokenCounter:
    """Counts tokens. The ranks are read when the first text is counted, or before it where somebody wants them.

    Reading them takes a fifth of a second of CPU and 50 MiB.
    """

    __slots__ = ("_encoding", "_is_wanted", "_loading", "trouble", "used")

    def __init__(self) -> None:
        self._encoding: tiktoken.Encoding | None = None
        self._loading = threading.Lock()
        self._is_wanted = False
        self.used = False
        """Whether something was counted, or is to be, since `rest` was called last."""
        self.trouble: str | None = None
        """Why counts are guesses from the bytes: the ranks could not be read. Is not tried again."""

    @property
    def loaded(self) -> bool:
        """Whether the ranks are there, and a short text takes microseconds."""
        return self._encoding is not None

    def want(self) -> None:
        """Texts will probably be counted in a moment: see that the ranks are there then. Returns at once."""
        self.used = True
        if self._encoding is None and not self._is_wanted and self.trouble is None:
            self._is_wanted = True
            threading.Thread(target=self.load, name="ranks", daemon=True).start()

    def rest(self) -> None:
        """Give the ranks back if they were not used since the last call. Some milliseconds, so call it in a thread."""
        if self.used or self._encoding is None:
            self.used = False
            return
        with self._loading:
            self._encoding = None
        _trim()

    def load(self) -> None:
        """Have the ranks when it returns, or `trouble`. Later calls do nothing."""
        self._loaded()

    def _loaded(self) -> "tiktoken.Encoding | None":
        with self._loading:
            if self._encoding is None and self.trouble is None:
                try:
                    self._encoding = _load_encoding()
                except RanksDamaged as error:
                    self.trouble = str(error)
            self._is_wanted = False
            return self._encoding

    def count(self, text: str) -> int:
        """Tokens of `text`; special tokens in it are text. Never raises.

        Where the ranks are not there it waits for them. With them it is pure CPU that releases the GIL: about 50 µs per
        KB of ordinary text and ten times that at worst, so a caller on the event loop moves texts beyond a few KB to a
        thread. Text is counted in slices of 32 Ki characters, which costs a token or so at each cut; beyond 1 Mi
        characters it is sampled.
        """
        self.used = True
        encoding = self._encoding
        if encoding is None and (encoding := self._loaded()) is None:
            return _guess(text)
        if len(text) <= _SLICE:
            return _count_slice(encoding, text)
        if len(text) <= _WHOLE:
            return _count_slices(encoding, text)
        middle = (len(text) - _SAMPLE) // 2
        parts = (text[:_SAMPLE], text[middle : middle + _SAMPLE], text[-_SAMPLE:])
        return sum(_count_slices(encoding, part) for part in parts) * len(text) // (len(parts) * _SAMPLE)


def _count_slices(encoding: "tiktoken.Encoding", text: str) -> int:
    return sum(_count_slice(encoding, text[start : start + _SLICE]) for start in range(0, len(text), _SLICE))


def _count_slice(encoding: "tiktoken.Encoding", text: str) -> int:
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


def _read_ranks() -> bytes:
    file = importlib.resources.files(__package__) / RANKS
    try:
        ranks = gzip.decompress(file.read_bytes())
    except (OSError, EOFError) as error:
        raise RanksDamaged(f"cannot read {RANKS} of the package: {error}; install the gateway again") from error
    digest = hashlib.sha256(ranks).hexdigest()
    if digest != RANKS_SHA256:
        raise RanksDamaged(f"{RANKS} has SHA-256 {digest}, expected {RANKS_SHA256}; install the gateway again")
    return ranks


def _load_encoding() -> "tiktoken.Encoding":
    import tiktoken  # a megabyte, with the ranks that need it

    words = _read_ranks().split()  # Tokens and their ranks in turn; the ranks are 0, 1, 2 and so on.
    # In one go, which nobody interrupts: what others allocate meanwhile would keep the memory from being given back.
    ranks = dict(zip(map(binascii.a2b_base64, words[::2]), itertools.count(), strict=False))
    encoding = tiktoken.Encoding("o200k_base", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={})
    del words, ranks
    # 27 MiB that only those use who pickle it: what encodes has a copy of its own.
    encoding._mergeable_ranks = {}  # noqa: SLF001  # there is no public way to let them go
    _trim()
    return encoding


def _trim() -> None:
    """Have the C library give back what was freed; where it cannot be told, it keeps it for later."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
