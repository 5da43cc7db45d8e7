"""The text of an answer as its tokens come, for engines that are given tokens alone."""

from collections.abc import Sequence

from tokenizers import Tokenizer

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
# So many tokens of what comes before tell how a text goes on: with a space, or without.
_REMEMBERED = 6


class Spoken:
    """Turns tokens into text, and ends it before the first of the stop sequences.

    What may be the beginning of a character or of a stop sequence is held back.

    Args:
        after: the tokens that the text goes on from.
    """

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str], after: Sequence[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._tokens = list(after[-_REMEMBERED:])
        self._done = len(self._tokens)  # so many of them are in the text
        self._held = ""
        self.stop: str | None = None
        """The stop sequence that was met."""

    def more(self, tokens: Sequence[int]) -> str:
        """Return what can be said once `tokens` are known; nothing after a stop sequence."""
        self._tokens += tokens
        text = self._decoded()
        return "" if text.endswith(_UNFINISHED) else self._say(text)

    def rest(self) -> str:
        """Return what was held back, once no more tokens come."""
        said = self._say(self._decoded())
        if self.stop is None:
            said, self._held = said + self._held, ""
        return said

    def _decoded(self) -> str:
        """The text of the tokens that are not in the text yet."""
        before = self._tokenizer.decode(self._tokens[: self._done])
        return self._tokenizer.decode(self._tokens)[len(before) :]

    def _say(self, text: str) -> str:
        self._tokens = self._tokens[self._done :] or self._tokens
        self._done = len(self._tokens)
        if self.stop is not None:
            return ""
        self._held += text
        met = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if met:
            at, self.stop = min(met)
            return self._held[:at]
        kept = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - kept
        said, self._held = self._held[:cut], self._held[cut:]
        return said


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
