"""What it takes to find passages: of ten thousand and of a hundred thousand, exactly and nearly;
and how much of the embedder's speed is left of it when documents are indexed.

python -m benchmarks.retrieval
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import psutil

from benchmarks.connection import Connection
from benchmarks.findings import Finding, Run, above, below, faster, take_turns
from benchmarks.load import bodies, raw_rate
from benchmarks.main import main
from benchmarks.raw import RAW, RawEmbedder
from benchmarks.servers import EMBEDDINGS, ROOT, Server, galley, model_files
from galley.engines.onnx_embedder import open_embedder
from galley.services.indexing import cut
from galley.stores.passages import Collection, Draft, Floats, NewCollection, Passage, Slice
from galley.stores.passages_sqlite import SqlitePassages, open_passages

DIMENSIONS = 384
SIZES = {10_000: 2.0, 100_000: 40.0}  # passages, and the most milliseconds
APPROXIMATE_MS, RECALL, NEAREST = 5.0, 0.98, 10
BYTES_PER_PASSAGE = 2048
PER_DOCUMENT, WORDS = 50, 140
ASKED_WORDS = 6
QUESTIONS = 50
TOPICS, CENTRES = 40, 2_000
VOCABULARY = np.array([f"w{np.base_repr(n * 7919 % 1_000_003, 36)}" for n in range(30_000)])
FUNCTION_WORDS = frozenset(VOCABULARY[:100].tolist())  # those of a language are passed over
DOCUMENTS = ("docs/routing.md", "docs/caching.md", "docs/vision.md", "docs/models.md")
SECONDS = 3.0
OWNER = MODEL = "benchmark"


async def run(rounds: int) -> list[Finding]:
    """Fill stores with texts of ordinary words and vectors of ordinary topics, and ask them."""
    findings: list[Finding] = []
    for size, most_ms in SIZES.items():
        findings += await _measure(size, most_ms, rounds)
    return findings + await _ingest(rounds)


async def _measure(size: int, most_ms: float, rounds: int) -> list[Finding]:
    """Ask a store that looks at all vectors, then the same one with an index of them."""
    rng = np.random.default_rng(size)
    vectors = _vectors(size, rng)
    what = f"retrieval: of {size:,} passages"
    with tempfile.TemporaryDirectory(prefix="galley-bench-") as folder:
        path = Path(folder, "passages.db")
        async with open_passages(path, memory_bytes=10**9, graph_from=10 * size) as store:
            texts, filled_s = await _fill(store, vectors, rng)
        asked = [_question(vectors, texts, rng) for _ in range(QUESTIONS * rounds)]
        async with open_passages(path, memory_bytes=10**9, graph_from=10 * size) as store:
            library = await _library(store)
            before = _memory()
            await _ask(store, library, *asked[0])
            beside = _memory() - before
            by_both = [await _ask(store, library, *one) for one in asked]
            by_meaning = [await _ask(store, library, vector, "") for vector, _ in asked]
        findings = [
            above(f"{what}, put", [size / filled_s], "passages/s", 0),
            below(f"{what}, memory of each", [beside / size], "bytes", BYTES_PER_PASSAGE),
            below(f"{what}, by meaning and words", by_both, "ms", most_ms),
            below(f"{what}, by meaning", by_meaning, "ms", most_ms),
        ]
        if size == max(SIZES):
            findings += await _approximate(path, vectors, asked)
    return findings


async def _approximate(
    path: Path, vectors: Floats, asked: list[tuple[Floats, str]]
) -> list[Finding]:
    what = f"retrieval: of {len(vectors):,} passages, with the index"
    async with open_passages(path, memory_bytes=10**9, graph_from=1) as store:
        library = await _library(store)
        began = time.perf_counter()
        await _ask(store, library, *asked[0])
        await asyncio.to_thread(store.graphs.settled)
        built_s = time.perf_counter() - began
        by_both = [await _ask(store, library, *one) for one in asked]
        by_meaning = [await _ask(store, library, vector, "") for vector, _ in asked]
        hits = [await _hits(store, library, vectors, vector) for vector, _ in asked]
    async with open_passages(path, memory_bytes=10**9, graph_from=1) as store:
        before = _memory()
        await _ask(store, library, *asked[0])
        await asyncio.to_thread(store.graphs.settled)
        for one in asked:
            await _ask(store, library, *one)
        memory = [(_memory() - before) / len(vectors)]
    return [
        below(f"{what}, built in", [built_s], "s"),
        below(f"{what}, memory of each", memory, "bytes", BYTES_PER_PASSAGE),
        below(f"{what}, by meaning and words", by_both, "ms"),
        below(f"{what}, by meaning", by_meaning, "ms", APPROXIMATE_MS),
        above(f"{what}, recall@{NEAREST}", [float(np.mean(hits))], "of all", RECALL),
    ]


def _memory() -> int:
    """What this process takes, in bytes; but for files, which the system maps and may let go."""
    found = psutil.Process().memory_info()
    return found.rss - found.shared


def _vectors(size: int, rng: np.random.Generator) -> Floats:
    """Unit vectors as texts have them: a few wide topics, narrower ones within, and noise."""
    topics = rng.standard_normal((TOPICS, DIMENSIONS), np.float32)
    topics /= np.linalg.norm(topics, axis=1, keepdims=True)
    noise = partial(rng.standard_normal, dtype=np.float32)
    scale = DIMENSIONS**-0.5
    centres = topics[rng.integers(0, TOPICS, CENTRES)] + 0.8 * scale * noise((CENTRES, DIMENSIONS))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    made = centres[rng.integers(0, CENTRES, size)] + 0.9 * scale * noise((size, DIMENSIONS))
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made.astype(np.float32)


async def _fill(
    store: SqlitePassages, vectors: Floats, rng: np.random.Generator
) -> tuple[list[str], float]:
    """Put documents whose words are as frequent as those of a language; returns texts, seconds."""
    library = await store.create_collection(OWNER, NewCollection("library", MODEL, DIMENSIONS))
    shares = 1 / np.arange(1, len(VOCABULARY) + 1)
    shares /= shares.sum()
    texts: list[str] = []
    took = 0.0
    for begin in range(0, len(vectors), PER_DOCUMENT):
        words = VOCABULARY[rng.choice(len(VOCABULARY), (PER_DOCUMENT, WORDS), p=shares)]
        told = [" ".join(row) for row in words]
        rows = vectors[begin : begin + PER_DOCUMENT]
        began = time.perf_counter()
        await store.put(OWNER, library.id, Draft("x", " ".join(told)), _slices(told, rows))
        took += time.perf_counter() - began
        texts += told
    return texts, took


async def _slices(texts: list[str], vectors: Floats) -> AsyncGenerator[Slice]:
    passages = [Passage(0, len(text), text) for text in texts]
    yield Slice(passages, vectors)


async def _library(store: SqlitePassages) -> Collection:
    library = await store.collection(OWNER, "library")
    assert library is not None
    return library


def _question(vectors: Floats, texts: list[str], rng: np.random.Generator) -> tuple[Floats, str]:
    """Something near a passage, with some of its words."""
    place = int(rng.integers(len(vectors)))
    noise = rng.standard_normal(DIMENSIONS, np.float32)
    vector = vectors[place] + 0.6 * DIMENSIONS**-0.5 * noise
    words = rng.choice(
        sorted(set(texts[place].split()) - FUNCTION_WORDS), ASKED_WORDS, replace=False
    )
    return vector / np.linalg.norm(vector), " ".join(words)


async def _ask(store: SqlitePassages, library: Collection, vector: Floats, text: str) -> float:
    """Milliseconds that a search takes."""
    began = time.perf_counter()
    found = await store.search(OWNER, [library.id], text=text, vectors={MODEL: vector}, limit=10)
    took = time.perf_counter() - began
    assert len(found) == 10
    return 1000 * took


async def _hits(
    store: SqlitePassages, library: Collection, vectors: Floats, vector: Floats
) -> float:
    """The part of the nearest that is found by meaning alone."""
    found = await store.search(OWNER, [library.id], text="", vectors={MODEL: vector}, limit=NEAREST)
    cosines = np.vecdot(vectors, vector)
    least = np.partition(cosines, -NEAREST)[-NEAREST]
    return sum((one.dense or 0) >= least - 1e-6 for one in found) / NEAREST


async def _ingest(rounds: int) -> list[Finding]:
    """Index real documents through the server, and embed the same passages alone."""
    engine = open_embedder(model_files()[EMBEDDINGS], 1)
    texts = [_text(name) for name in DOCUMENTS]
    cuts = [
        await cut(engine, Draft(Path(name).name, text, "text/markdown"))
        for name, text in zip(DOCUMENTS, texts, strict=True)
    ]
    read = [f"{one.context}\n{one.text}" for made in cuts for one in made.passages]
    sent = bodies(
        [
            {"name": Path(name).name, "text": text, "media_type": "text/markdown"}
            for name, text in zip(DOCUMENTS, texts, strict=True)
        ]
    )
    with galley() as server:
        runs: dict[str, Run] = {"galley": partial(_indexed, server, sent)}
        for name, threads in RAW.items():
            embed: Callable[[], object] = partial(RawEmbedder(threads).embed, read)
            runs[name] = partial(raw_rate, embed, seconds=SECONDS, units=len(read))
        turns = await take_turns(runs, rounds)
    targets = {"raw, all cores": 0.9}
    return [
        faster("retrieval: indexing", turns, "passages/s", than=name, at_least=targets.get(name))
        for name in RAW
    ]


def _text(name: str) -> str:
    return Path(ROOT, name).read_text()


async def _indexed(server: Server, sent: list[bytes]) -> float:
    """Passages per second that the server has indexed."""
    done, began = 0, time.perf_counter()
    async with Connection(server.url, server.key) as connection:
        while time.perf_counter() - began < SECONDS:
            for body in sent:
                done += orjson.loads(await connection.post("/v1/documents", body))["passages"]
    return done / (time.perf_counter() - began)


if __name__ == "__main__":
    main({"retrieval": run}, __doc__)
