"""Reading server-sent events, as other people's servers write them."""

MOST_EVENT_BYTES = 4 << 20


class EventReader:
    """Cuts a stream of bytes into the data of its events; names, ids and comments are left out.

    Source: WHATWG HTML, section 9.2.6 (Interpreting an event stream).
    """

    __slots__ = ("_data", "_line", "_size")

    def __init__(self) -> None:
        self._line: list[bytes] = []  # the pieces of one whose end is still to come
        self._data: list[bytes] = []  # the same of an event
        self._size = 0

    def feed(self, part: bytes) -> list[bytes]:
        """Return the data of every event that `part` completes.

        Raises:
            ValueError: an event is larger than `MOST_EVENT_BYTES`.
        """
        self._size += len(part)
        if b"\n" not in part:  # joined once, when its end is there
            self._line.append(part)
            found: list[bytes] = []
        else:
            *lines, rest = b"".join([*self._line, part]).split(b"\n")
            self._line = [rest] if rest else []
            found = self._read(lines)
            if not self._data:
                self._size = len(rest)
        if self._size > MOST_EVENT_BYTES:
            raise ValueError(f"an event of more than {MOST_EVENT_BYTES} bytes")
        return found

    def end(self) -> list[bytes]:
        """Return what was begun when the stream ended: some servers leave out the last line."""
        lines, self._line = [b"".join(self._line), b""], []
        return self._read(lines)

    def _read(self, lines: list[bytes]) -> list[bytes]:
        found: list[bytes] = []
        for line in lines:
            if line in (b"", b"\r"):
                if self._data:
                    found.append(b"\n".join(self._data))
                    self._data.clear()
            elif line.startswith(b"data:"):
                self._data.append(line[5:].strip())
        return found
