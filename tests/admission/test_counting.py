import base64
import random
from collections.abc import Callable

import pytest
import tiktoken
import tiktoken_ext.openai_public  # type: ignore[import-untyped]  # a plug-in namespace without stubs

from gateway.admission import counting
from gateway.admission.counting import RanksDamaged, TokenCounter

KNOWN = {
    "": 0,
    "hello world": 2,
    "Hello, world!": 4,
    "tiktoken is great!": 6,
    "<|endoftext|>": 7,
}


def random_text(alphabet: str, size: int) -> str:
    return "".join(random.Random(7).choices(alphabet, k=size))


CJK = "".join(map(chr, range(0x4E00, 0x9F00)))
HOSTILE: dict[str, Callable[[int], str]] = {
    "spaces": lambda size: " " * size,
    "newlines": lambda size: "\n" * size,
    "one letter": lambda size: "a" * size,
    "carets": lambda size: "^" * size,
    "zero width spaces": lambda size: "\u200b" * size,
    "one ideograph": lambda size: "的" * size,
    "random ideographs": lambda size: random_text(CJK, size),
    "base64": lambda size: base64.b64encode(random.Random(7).randbytes(size)).decode()[:size],
    "special tokens": lambda size: "<|endoftext|><|endofprompt|>" * (size // 28),
    "digits": lambda size: random_text("0123456789", size),
    "emoji": lambda size: "👩‍👩‍👧‍👦" * (size // 7),
    "prose": lambda size: "The quick brown fox jumps over the lazy dog. " * (size // 45),
}


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    """A counter with its ranks, loaded once for this file."""
    counter = TokenCounter()
    counter.load()
    return counter


@pytest.fixture(scope="module")
def oracle(counter: TokenCounter) -> tiktoken.Encoding:
    """The encoding itself, which is given the whole text at once."""
    assert counter._encoding is not None
    return counter._encoding


def test_the_encoding_is_the_one_tiktoken_defines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sum of ranks and the same pattern as in tiktoken's own source, read without its download."""
    sums = []

    def instead_of_downloading(url: str, expected_hash: str) -> dict[bytes, int]:
        sums.append(expected_hash)
        return {}

    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", instead_of_downloading)
    definition = tiktoken_ext.openai_public.o200k_base()
    assert sums == [counting.RANKS_SHA256]
    assert definition["pat_str"] == counting._PATTERN


def test_the_ranks_stand_in_their_order() -> None:
    """So they need not be read, which takes half of the time."""
    ranks = counting._read_ranks().split()[1::2]
    assert list(map(int, ranks)) == list(range(len(ranks)))


def test_a_damaged_rank_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong counts would be wrong bills. Damaged while the gateway runs, it leaves guesses from the bytes."""
    monkeypatch.setattr(counting, "RANKS_SHA256", "0" * 64)
    with pytest.raises(RanksDamaged, match="install the gateway again"):
        counting.check()
    counter = TokenCounter()
    assert counter.count("x" * 3_000) == 1_000
    assert counter.trouble is not None
    assert "install the gateway again" in counter.trouble


@pytest.mark.parametrize(("text", "tokens"), KNOWN.items())
def test_counts_are_those_of_o200k_base(counter: TokenCounter, text: str, tokens: int) -> None:
    assert counter.count(text) == tokens


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("size", [1_000, 100_000])
def test_slicing_agrees_with_counting_at_once(
    counter: TokenCounter, oracle: tiktoken.Encoding, name: str, size: int
) -> None:
    """Within one per cent, whatever the text is made of."""
    text = HOSTILE[name](size)
    assert counter.count(text) == pytest.approx(len(oracle.encode_ordinary(text)), rel=0.01)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_and_more_never_raises(counter: TokenCounter, name: str) -> None:
    """Counted or sampled, the density of tokens stays that of a shorter text of the kind."""
    density = counter.count(HOSTILE[name](200_000)) / 200_000
    for size in (1_000_000, 5_000_000):
        assert counter.count(HOSTILE[name](size)) / size == pytest.approx(density, rel=0.02)


def test_half_a_surrogate_pair_is_counted_as_text(counter: TokenCounter) -> None:
    """JSON can carry one; UTF-8 cannot."""
    assert counter.count("a\ud800b") > 0


class Panicking:
    """Stands in for native code that panics; the real way to make it do so is what slicing prevents."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def encode_ordinary(self, text: str) -> list[int]:
        """Fail, whatever the text."""
        raise self.error


PanicException = type("PanicException", (BaseException,), {})


@pytest.mark.parametrize("error", [PanicException("StackOverflow"), ValueError("no")], ids=["panic", "exception"])
def test_a_panic_of_the_native_code_ends_in_a_guess(error: BaseException) -> None:
    """One token for every three bytes."""
    counter = TokenCounter()
    counter._encoding = Panicking(error)  # type: ignore[assignment]  # the one method that is called
    assert counter.count("x" * 3_000) == 1_000


def test_an_interrupt_is_not_swallowed() -> None:
    counter = TokenCounter()
    counter._encoding = Panicking(KeyboardInterrupt())  # type: ignore[assignment]  # as above
    with pytest.raises(KeyboardInterrupt):
        counter.count("text")


def test_ranks_come_with_the_first_count_and_go_when_nobody_counts() -> None:
    """A count is never a guess, whether or not the ranks were there."""
    counter = TokenCounter()
    were_there = [counter.loaded]
    assert counter.count("hello world") == 2
    for _ in range(2):
        counter.rest()  # The first time it was used since.
        were_there.append(counter.loaded)
    assert were_there == [False, True, False]
    counter.want()
    assert counter.count("tiktoken is great!") == 6
