"""Vectors of collections in memory, as far as they fit; the nearest are found by looking at all.

What is loaded is brought up to what a search sees in the file: versions that went are covered
up, new ones come behind. A `View` never changes, so a search may go on with it.
"""

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galley.stores.passages import Floats
from galley.stores.passages_ids import NUMBER_BITS, span

Integers = NDArray[np.int64]

_NO_FLOATS: Floats = np.zeros(0, np.float32)
_SPARE_ROWS = 1024
_BYTES_BESIDE_VECTOR = 3  # a word count, and whether the row is shown


@dataclass(frozen=True, slots=True, weakref_slot=True)
class View:
    """The passages of a collection that are shown, at places from 0, with gaps.

    Args:
        generation: the collection's, as it is in the file.
        versions: in the order of their places; `begins` is the first of each, and `order` sorts
            them.
        blocks: vectors; each goes on where the one before it ends.
        lengths: words of each passage.
        alive: whether the passage is shown.
    """

    generation: int
    versions: Integers
    order: Integers
    begins: Integers
    sizes: Integers
    blocks: tuple[Floats, ...]
    lengths: NDArray[np.uint16]
    alive: NDArray[np.bool_]
    shown: int
    mean_length: float

    @property
    def rows(self) -> int:
        """How many places there are."""
        return len(self.alive)

    def places(self, ids: Integers) -> Integers:
        """Return the places of those passages that are shown, leaving out others."""
        if not len(self.versions):
            return np.zeros(0, np.int64)
        wanted = ids >> NUMBER_BITS
        at = np.searchsorted(self.versions, wanted, sorter=self.order)
        at = self.order[np.minimum(at, len(self.order) - 1)]
        places = self.begins[at] + (ids & ((1 << NUMBER_BITS) - 1))
        places = places[self.versions[at] == wanted]
        return places[self.alive[places]]

    def ids(self, places: Integers) -> list[int]:
        """Return the passages at `places`."""
        at = np.searchsorted(self.begins, places, "right") - 1
        return ((self.versions[at] << NUMBER_BITS) + places - self.begins[at]).tolist()

    @property
    def shown_versions(self) -> NDArray[np.bool_]:
        """Say of each of `versions` whether it is shown."""
        return self.alive[self.begins]

    def vectors_at(self, places: Integers) -> Floats:
        """Return the vectors at `places`, which are in ascending order."""
        found: list[Floats] = []
        begin = 0
        for block in self.blocks:
            first, last = np.searchsorted(places, (begin, begin + len(block)))
            found.append(block[places[first:last] - begin])
            begin += len(block)
        return np.concatenate(found)

    def only(self, versions: Iterable[int]) -> NDArray[np.bool_]:
        """Say of every place whether it is shown and of one of `versions`."""
        return self.alive & np.repeat(np.isin(self.versions, list(versions)), self.sizes)

    def cosines(self, vector: Floats, within: NDArray[np.bool_]) -> Floats:
        """Return the cosine to every place of `within`, and -inf elsewhere."""
        found = np.full(self.rows, -np.inf, np.float32)
        if np.count_nonzero(within) * 4 < self.rows:
            (places,) = within.nonzero()
            found[places] = self.cosines_at(vector, places)
            return found
        begin = 0
        for block in self.blocks:
            # Row by row, so that BLAS has nothing to share out among threads.
            np.vecdot(block, vector, out=found[begin : begin + len(block)])
            begin += len(block)
        found[~within] = -np.inf
        return found

    def cosines_at(self, vector: Floats, places: Integers) -> Floats:
        """Return the cosine to each of `places`, which are in ascending order."""
        return np.vecdot(self.vectors_at(places), vector) if len(places) else _NO_FLOATS


class _Loaded:
    """A collection's vectors in memory; `lock` is held while they are brought up to date."""

    def __init__(self, dimensions: int) -> None:
        self.lock = threading.Lock()
        self.view: View | None = None
        self._dimensions = dimensions
        self._blocks: list[Floats] = []  # with room to spare
        self._used: list[int] = []

    @property
    def bytes(self) -> int:
        places = sum(self._used)
        return places * (4 * self._dimensions + _BYTES_BESIDE_VECTOR)

    def refresh(self, connection: sqlite3.Connection, collection: int, generation: int) -> View:
        """Bring the view to what `connection` sees."""
        try:
            self.view = self._refreshed(connection, collection, generation)
        except BaseException:  # half of it may be there
            self.view, self._blocks, self._used = None, [], []
            raise
        return self.view

    def _refreshed(self, connection: sqlite3.Connection, collection: int, generation: int) -> View:
        query = (
            "SELECT v.id, v.passages FROM documents d JOIN versions v ON v.id = d.live"
            " WHERE d.collection = ? AND v.passages > 0 ORDER BY v.id"
        )
        live = np.array(connection.execute(query, (collection,)).fetchall(), np.int64)
        live = live.reshape(-1, 2)
        old = self.view or _empty_view()
        stays = np.isin(old.versions, live[:, 0])
        kept, total = int(old.sizes[stays].sum()), int(live[:, 1].sum())
        if kept * 4 < old.rows * 3 or not old.rows:  # too many gaps: from the beginning
            old, stays = _empty_view(), np.zeros(0, np.bool_)
            self._blocks, self._used = [], []
            self._make_room(total)
        new = live[np.isin(live[:, 0], old.versions[stays], invert=True)]
        lengths = [self._append(connection, *row) for row in new.tolist()]
        sizes = np.concatenate([old.sizes, new[:, 1]])
        alive = np.concatenate(
            [np.repeat(stays, old.sizes) & old.alive, np.ones(new[:, 1].sum(), np.bool_)]
        )
        words = np.concatenate([old.lengths, *lengths])
        versions = np.concatenate([old.versions, new[:, 0]])
        return View(
            generation=generation,
            versions=versions,
            order=np.argsort(versions),
            begins=np.cumsum(sizes) - sizes,
            sizes=sizes,
            blocks=tuple(b[:used] for b, used in zip(self._blocks, self._used, strict=True)),
            lengths=words,
            alive=alive,
            shown=total,
            mean_length=float(words[alive].mean()) if total else 0.0,
        )

    def _append(
        self, connection: sqlite3.Connection, version: int, passages: int
    ) -> NDArray[np.uint16]:
        if not self._blocks or self._used[-1] + passages > len(self._blocks[-1]):
            self._make_room(max(passages, _SPARE_ROWS))
        block, lengths, begin = self._blocks[-1], list[NDArray[np.uint16]](), self._used[-1]
        query = "SELECT vectors, lengths FROM runs WHERE id BETWEEN ? AND ? ORDER BY id"
        for vectors, words in connection.execute(query, span(version)):
            rows = np.frombuffer(vectors, np.float32).reshape(-1, self._dimensions)
            block[begin : begin + len(rows)] = rows
            begin += len(rows)
            lengths.append(np.frombuffer(words, np.uint16))
        self._used[-1] += passages
        return np.concatenate(lengths)

    def _make_room(self, rows: int) -> None:
        # The system gives memory to what is written to: room that is not used costs nothing.
        self._blocks.append(np.empty((rows, self._dimensions), np.float32))
        self._used.append(0)


def _empty_view() -> View:
    none = np.zeros(0, np.int64)
    return View(
        generation=-1, versions=none, order=none, begins=none, sizes=none, blocks=(),
        lengths=np.zeros(0, np.uint16), alive=np.zeros(0, np.bool_), shown=0, mean_length=0.0,
    )  # fmt: skip


class Vectors:
    """The collections in memory; what was not searched for the longest goes first.

    Args:
        max_bytes: of all together; one alone may be larger while it is searched.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._loaded: OrderedDict[int, _Loaded] = OrderedDict()

    @property
    def bytes(self) -> int:
        """What they take."""
        with self._lock:
            return sum(loaded.bytes for loaded in self._loaded.values())

    def view(
        self, connection: sqlite3.Connection, collection: int, dimensions: int, generation: int
    ) -> View | None:
        """Return what `connection` sees of a collection; None when others have seen a later one."""
        with self._lock:
            loaded = self._loaded.setdefault(collection, _Loaded(dimensions))
            self._loaded.move_to_end(collection)
        view = loaded.view
        if view is not None and view.generation == generation:
            return view
        with loaded.lock:
            view = loaded.view
            if view is None or view.generation < generation:
                view = loaded.refresh(connection, collection, generation)
        self._forget_some()
        return view if view.generation == generation else None

    def forget(self, collections: Sequence[int]) -> None:
        """Drop what was deleted."""
        with self._lock:
            for collection in collections:
                self._loaded.pop(collection, None)

    def _forget_some(self) -> None:
        with self._lock:
            total = sum(loaded.bytes for loaded in self._loaded.values())
            while self._loaded and total > self._max_bytes:
                _, oldest = self._loaded.popitem(last=False)
                total -= oldest.bytes
