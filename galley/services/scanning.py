"""Looks for what has a shape in a text that comes in pieces.

What is found does not depend on where the text was cut: the end of what came is held back as long
as it may be the beginning of something, and no longer.
"""

from galley.services.detectors import Detector


class Scanner:
    """Passes a text on, with a label in the place of each thing that is found.

    Args:
        stops: the first thing that is found ends the text; it and what follows are left out.
    """

    __slots__ = ("_again", "_detector", "_seen", "_sent", "_text", "count", "stops")

    def __init__(self, detector: Detector, *, stops: bool = False) -> None:
        self.stops = stops
        self.count = 0
        self._detector = detector
        self._text = ""  # with one character before what is still looked at
        self._seen = 0  # where to go on looking
        self._sent = 0  # what of it has left
        self._again = 0  # how long it has to be before it is worth another look

    @property
    def stopped(self) -> bool:
        """Whether the text has ended here."""
        return self.stops and self.count > 0

    def feed(self, piece: str) -> str:
        """Take the next piece, and return what can leave."""
        self._text += piece
        return self._scan(last=False) if len(self._text) >= self._again else ""

    def flush(self) -> str:
        """Return what was held back; what follows is still looked at together with it."""
        said = self._scan(last=True)
        if not self.stopped:
            self._scan(last=False)
        return said

    def _scan(self, *, last: bool) -> str:
        text, detector, said = self._text, self._detector, ""
        search = (detector.whole if last else detector.beginning).search
        seen = self._seen
        while found := search(text, seen):
            begin = found.start()
            if not last and detector.beginning.fullmatch(text, begin):
                break  # more may belong to it
            match = detector.whole.match(text, begin)
            length = detector.measure(match[0]) if match else 0
            if not length:
                seen = begin + 1
                continue
            self.count += 1
            said += text[self._sent : begin]
            if self.stops:
                return said
            if begin + length > self._sent:
                said += f"[{detector.label}]"
            self._seen = seen = begin + length
            self._sent = max(self._sent, seen)
        else:
            begin = len(text)
        leaves = len(text) if last else begin
        said += text[self._sent : leaves]
        self._sent = max(self._sent, leaves)
        if not last:
            self._forget(begin)
        return said

    def _forget(self, begin: int) -> None:
        """Forget what is decided, but for the character before what is not."""
        decided = max(0, begin - 1)
        self._text = self._text[decided:]
        self._sent -= decided
        self._seen = begin - decided
        self._again = len(self._text) + len(self._text) // 8
