"""An index of the vectors of large collections, in which the nearest are found without looking at
all: HNSW over vectors of one byte per dimension, whose finds are compared exactly afterwards.

It is made in the background, kept in a file beside the passages and mapped into memory. Passages
that came since are looked at one by one, those that went are passed over; when they become many,
a copy of the index is brought up to date and takes its place.

Source: Malkov and Yashunin 2018, Efficient and Robust Approximate Nearest Neighbor Search Using
Hierarchical Navigable Small World Graphs.
"""

import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import ref

import numpy as np
import orjson
import structlog

from galley.stores.passages import Floats
from galley.stores.passages_vectors import Integers, View

if TYPE_CHECKING:
    from usearch.index import Index

_CONNECTIVITY, _EXPANSION_ADD = 12, 96
_EXPANSION_SEARCH = 384
_AT_ONCE = 256  # vectors between two looks at whether to stop
_COVERED = 0.95  # of what is shown, or a new index is made

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Graph:
    """An index that does not change any more, and the versions whose passages are in it."""

    index: "Index"
    versions: Integers

    def nearest(self, vector: Floats, count: int) -> Integers:
        """Return passages whose vectors are near, but for a few perhaps."""
        found = self.index.search(vector, count, threads=1)
        return np.asarray(found.keys).astype(np.int64)

    def uncovered(self, view: View) -> Integers:
        """Return the places of passages that are shown and not in the index."""
        missing = view.shown_versions & ~np.isin(view.versions, self.versions)
        if not missing.any():
            return np.zeros(0, np.int64)
        return np.repeat(missing, view.sizes).nonzero()[0]

    def fits(self, view: View) -> bool:
        """Tell whether most of it is shown, and most of what is shown is in it."""
        return _passages(view, self.versions) >= _COVERED * view.shown and self.is_mostly_shown(
            view
        )

    def is_mostly_shown(self, view: View) -> bool:
        """Tell whether little in it has gone since."""
        return _passages(view, self.versions) >= _COVERED * len(self.index)


class Graphs:
    """The indexes of collections that have at least `least` passages.

    Args:
        folder: where their files are.
    """

    def __init__(self, folder: Path, least: int) -> None:
        self._folder = folder
        self._least = least
        self.ready: dict[int, Graph] = {}
        self._seen: dict[int, tuple[ref[View], Graph, Integers]] = {}
        self._failed: dict[int, int] = {}  # for which generation none could be made
        self._busy: set[int] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._builder = ThreadPoolExecutor(1, "galley-passages-graph")

    def of(self, collection: int, view: View) -> tuple[Graph, Integers] | None:
        """Return the index of a collection, and the places in `view` that are not in it.

        None where the collection is small, or its index is not there yet.
        """
        if view.shown < self._least:
            return None
        graph = self.ready.get(collection)
        seen = self._seen.get(collection)
        if graph is not None and seen is not None and seen[0]() is view and seen[1] is graph:
            return graph, seen[2]
        if graph is None or not graph.fits(view):
            with self._lock:
                failed = self._failed.get(collection) == view.generation
                if not (failed or collection in self._busy or self._closing.is_set()):
                    self._busy.add(collection)
                    self._builder.submit(self._prepare, collection, view)
        if graph is None:
            return None
        others = graph.uncovered(view)
        if collection not in self._busy:
            self._seen[collection] = ref(view), graph, others
        return graph, others

    def settled(self) -> None:
        """Wait until no index is being made."""
        self._builder.submit(int).result()

    def keep(self, collections: Sequence[int]) -> None:
        """Delete the indexes of all other collections."""
        for path in self._folder.glob("*-*.usearch"):
            if int(path.name.partition("-")[0]) not in collections:
                path.unlink(missing_ok=True)
                self._described(path).unlink(missing_ok=True)
        for collection in self.ready.keys() - set(collections):
            del self.ready[collection]

    def close(self) -> None:
        """Stop making any."""
        self._closing.set()
        self._builder.shutdown()

    def _prepare(self, collection: int, view: View) -> None:
        try:
            graph = self.ready.get(collection) or self._opened(collection)
            if graph is None or not graph.fits(view):
                graph = self._made(collection, view, graph)
            if graph is not None:
                self.ready[collection] = graph
        except Exception:  # whatever it is, all vectors can be looked at
            self._failed[collection] = view.generation
            _log.exception("vector_index_failed", collection=collection)
        finally:
            self._busy.discard(collection)

    def _made(self, collection: int, view: View, before: Graph | None) -> Graph | None:
        """Make an index of what `view` shows, from the one before where most of that is shown."""
        dimensions = view.blocks[0].shape[1]
        index = _usearch()(
            ndim=dimensions, metric="cos", dtype="i8", connectivity=_CONNECTIVITY,
            expansion_add=_EXPANSION_ADD,
        )  # fmt: skip
        known = np.zeros(0, np.int64)
        path = self._newest(collection)
        if before is not None and path is not None and before.is_mostly_shown(view):
            index.load(path)
            known = before.versions
        missing = view.shown_versions & ~np.isin(view.versions, known)
        (places,) = np.repeat(missing, view.sizes).nonzero()
        for begin in range(0, len(places), _AT_ONCE):
            if self._closing.is_set():
                return None
            part = places[begin : begin + _AT_ONCE]
            ids = np.array(view.ids(part), np.uint64)
            index.add(ids, view.vectors_at(part), threads=1)
        versions = np.union1d(known, view.versions[view.shown_versions])
        return self._kept(collection, index, versions)

    def _kept(self, collection: int, index: "Index", versions: Integers) -> Graph | None:
        """Write an index to its file, and open that."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / f"{collection}-{os.urandom(4).hex()}.usearch"
        old = list(self._folder.glob(f"{collection}-*"))
        data = index.save(None) or b""
        _write(path, data)
        about = {
            "usearch": version("usearch"),
            "sum": hashlib.blake2b(data).hexdigest(),
            "versions": versions.tolist(),
        }
        _write(self._described(path), orjson.dumps(about))
        for file in old:
            file.unlink(missing_ok=True)
        return self._opened(collection)

    def _opened(self, collection: int) -> Graph | None:
        """Open an index that was kept; None where there is none, or none that can be trusted."""
        path = self._newest(collection)
        if path is None:
            return None
        about = orjson.loads(self._described(path).read_bytes())
        if about["usearch"] != version("usearch"):
            return None
        if hashlib.blake2b(path.read_bytes()).hexdigest() != about["sum"]:
            return None
        index = _usearch().restore(path, view=True)
        if index is None:
            return None
        index.expansion_search = _EXPANSION_SEARCH
        return Graph(index, np.array(about["versions"], np.int64))

    def _newest(self, collection: int) -> Path | None:
        """Return the file of a collection's index; after a crash there may be another one."""
        found = [
            path
            for path in self._folder.glob(f"{collection}-*.usearch")
            if self._described(path).is_file()
        ]
        return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)

    def _described(self, path: Path) -> Path:
        return path.with_suffix(".json")


def _usearch() -> "type[Index]":
    """Import usearch after ONNX Runtime: the other way round, loading ONNX Runtime crashes.

    Seen with usearch 2.26 and onnxruntime 1.31 on Linux.
    """
    import onnxruntime  # noqa: F401 - it has to be first  # pyright: ignore[reportUnusedImport]
    from usearch.index import Index

    return Index


def _passages(view: View, versions: Integers) -> int:
    """How many passages of `versions` are shown."""
    return int(view.sizes[view.shown_versions & np.isin(view.versions, versions)].sum())


def _write(path: Path, data: bytes | bytearray) -> None:
    """Write a file that is there whole or not at all."""
    partial = path.with_name(f"{path.name}.part")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
