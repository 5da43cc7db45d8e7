"""How well the cache tells questions that say the same from those that only look alike."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from galley.engines.base import Embedder
from galley.services.caching import THRESHOLD
from galley.services.wording import wording

THRESHOLDS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
_AT_ONCE = 32  # pairs in one call of the model


class Pair(BaseModel):
    """Two questions, and whether one answer does for both."""

    model_config = ConfigDict(extra="ignore", strict=True)

    a: str = Field(min_length=1, max_length=10_000)
    b: str = Field(min_length=1, max_length=10_000)
    same: bool
    kind: str | None = Field(default=None, max_length=64)


class PairError(ValueError):
    """A line is no pair; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair, how alike its vectors are, and whether its words say the same."""

    pair: Pair
    similarity: float
    same_words: bool

    def hit(self, threshold: float = THRESHOLD, *, words: bool = True) -> bool:
        """Tell whether one would be answered with the other's answer."""
        return self.similarity >= threshold and (self.same_words or not words)


@dataclass(frozen=True, slots=True)
class Rates:
    """How many of the pairs that say the same are hits, and how many of the others."""

    paraphrases: int
    hits: int
    others: int
    false_hits: int

    @property
    def hit_rate(self) -> float:
        """Hits among the paraphrases, 0 to 1."""
        return self.hits / self.paraphrases if self.paraphrases else 0.0

    @property
    def false_hit_rate(self) -> float:
        """Hits among the others, 0 to 1."""
        return self.false_hits / self.others if self.others else 0.0


def read_pairs(lines: Iterable[str]) -> Iterator[Pair]:
    """Read pairs from lines of JSON.

    Raises:
        PairError: a line is none.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield Pair.model_validate_json(line)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(map(str, first["loc"])) or "JSON"
                raise PairError(f"line {number}: {where}: {first['msg']}") from None


async def judge(
    pairs: Sequence[Pair], embedder: Embedder, progress: Callable[[int], None]
) -> list[Judged]:
    """Compare the two of every pair, as the cache would.

    Args:
        progress: is told how many pairs are done.
    """
    judged: list[Judged] = []
    for start in range(0, len(pairs), _AT_ONCE):
        some = pairs[start : start + _AT_ONCE]
        texts = [text for pair in some for text in (pair.a, pair.b)]
        vectors = (await embedder.embed(texts, truncate=True)).vectors
        cosines = (vectors[::2] * vectors[1::2]).sum(axis=1)
        for pair, cosine in zip(some, cosines.tolist(), strict=True):
            judged.append(Judged(pair, cosine, wording(pair.a) == wording(pair.b)))
        progress(len(judged))
    return judged


def rates(judged: Iterable[Judged], threshold: float = THRESHOLD, *, words: bool = True) -> Rates:
    """Count the hits at `threshold`; without `words`, by the vectors alone."""
    counts = {True: [0, 0], False: [0, 0]}
    for each in judged:
        counts[each.pair.same][0] += 1
        counts[each.pair.same][1] += each.hit(threshold, words=words)
    return Rates(*counts[True], *counts[False])
