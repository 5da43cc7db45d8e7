import asyncio
import itertools
import json
import shutil
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from galley.core.catalogue import EMBEDDED_MODELS
from galley.core.errors import BadRequestError, OverloadedError
from galley.engines.onnx_embedder import OnnxEmbedder, open_embedder
from galley.engines.weights import WeightsError
from galley.services.sources import find
from tests.engines.sentence_models import (
    TABLE,
    WORDS,
    write_graph,
    write_json,
    write_tokenizer,
)

pytestmark = pytest.mark.anyio

DATA = Path(__file__).parent.parent / "data"
HELLO_WORLD = [7592, 2088]


@pytest.fixture(scope="session")
def minilm_folder(models_dir: Path) -> Path:
    name = "all-minilm-l6-v2"
    path = find(name, EMBEDDED_MODELS[name], models_dir)
    assert path is not None
    return path


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[OnnxEmbedder]:
    embedder = await asyncio.to_thread(open_embedder, path, 1)
    try:
        yield embedder
    finally:
        await embedder.aclose()


@pytest.fixture(scope="session")
def minilm(minilm_folder: Path) -> Generator[OnnxEmbedder]:
    embedder = open_embedder(minilm_folder, 1)
    yield embedder
    asyncio.run(embedder.aclose())


def mean_of(*words: str) -> NDArray[np.float32]:
    mean = TABLE[[WORDS.index(word) for word in words]].mean(axis=0)
    return mean / np.linalg.norm(mean)


async def test_vectors_agree_with_the_reference_implementation(minilm: OnnxEmbedder) -> None:
    texts: list[str] = json.loads((DATA / "minilm_texts.json").read_text())
    reference: NDArray[np.float32] = np.load(DATA / "minilm_vectors.npy")

    found = await minilm.embed(texts, truncate=True)

    cosines = (found.vectors * reference).sum(axis=1)
    assert len(cosines) == 50
    assert cosines.min() > 0.9999


async def test_what_it_says_of_itself(minilm: OnnxEmbedder) -> None:
    assert (minilm.dimensions, minilm.max_tokens) == (384, 256)
    assert minilm.hardware
    assert minilm.problem is None


async def test_vectors_have_length_one_and_tokens_are_counted_with_special_ones(
    minilm: OnnxEmbedder,
) -> None:
    found = await minilm.embed(["hello world", "hello"])

    assert found.vectors.shape == (2, 384)
    assert found.vectors.dtype == np.float32
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert found.tokens == (2 + 2) + (2 + 1)


async def test_a_text_has_the_same_vector_alone_and_among_others(minilm: OnnxEmbedder) -> None:
    texts = ["one", "two words", "a longer text " * 20, "hello", "the end " * 60]

    together = await minilm.embed(texts)

    for number, text in enumerate(texts):
        alone = await minilm.embed([text])
        assert together.vectors[number] @ alone.vectors[0] > 0.99999


async def test_token_ids_give_what_their_text_gives(minilm: OnnxEmbedder) -> None:
    from_text = await minilm.embed(["hello world"])

    from_ids = await minilm.embed([HELLO_WORLD])

    assert np.array_equal(from_ids.vectors, from_text.vectors)
    assert from_ids.tokens == from_text.tokens == 4


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (["short", "hello " * 255], ["Input 1", "257", "256"]),
        ([[7592] * 255], ["Input 0", "257", "256"]),
        (["hello " * 100_000], ["more than", "256"]),
    ],
)
async def test_what_is_too_long_is_refused_with_both_numbers(
    inputs: Any, words: list[str], minilm: OnnxEmbedder
) -> None:
    with pytest.raises(BadRequestError) as refusal:
        await minilm.embed(inputs)

    assert refusal.value.code == "context_length_exceeded"
    assert refusal.value.param == "input"
    assert all(word in refusal.value.message for word in words)


async def test_the_longest_input_fits(minilm: OnnxEmbedder) -> None:
    found = await minilm.embed(["hello " * 254])

    assert found.tokens == 256


@pytest.mark.parametrize("as_ids", [False, True])
async def test_what_is_too_long_is_cut_when_asked(as_ids: bool, minilm: OnnxEmbedder) -> None:
    long: Any = [HELLO_WORLD * 3000] if as_ids else ["hello world " * 3000]
    kept: Any = [HELLO_WORLD * 127] if as_ids else ["hello world " * 127]

    found = await minilm.embed(long, truncate=True)

    assert found.tokens == 256
    assert np.array_equal(found.vectors, (await minilm.embed(kept)).vectors)


async def test_a_long_text_of_few_tokens_is_read_to_its_end(minilm: OnnxEmbedder) -> None:
    spaced = await minilm.embed(["hello" + " " * 100_000 + "world"])

    assert spaced.tokens == 4
    assert np.array_equal(spaced.vectors, (await minilm.embed(["hello world"])).vectors)


@pytest.mark.parametrize("token", [30_522, 2**31 - 1, -1])
async def test_an_unknown_token_id_is_refused_by_its_number(
    token: int, minilm: OnnxEmbedder
) -> None:
    with pytest.raises(BadRequestError, match=rf"Input 1 has token {token}\b") as refusal:
        await minilm.embed([HELLO_WORLD, [101, token]])

    assert (refusal.value.code, refusal.value.param) == ("unknown_token", "input")


async def test_it_says_where_tokens_begin(minilm: OnnxEmbedder) -> None:
    text = "Tides, tides: caf\u00e9 \U0001f30a!"

    starts = await minilm.token_starts(text)

    assert (await minilm.embed([text])).tokens == len(starts) + 2
    parts = [text[a:b].strip() for a, b in itertools.pairwise([*starts.tolist(), len(text)])]
    assert parts[:4] == ["Tides", ",", "tides", ":"]
    assert "".join(parts[4:]).startswith("caf\u00e9")


async def test_tokens_of_a_book_begin_where_they_begin_in_its_pages(minilm: OnnxEmbedder) -> None:
    page = "The moon pulls the sea. " * 100

    starts = (await minilm.token_starts(page * 60)).tolist()

    on_a_page = (await minilm.token_starts(page)).tolist()
    assert starts == [n * len(page) + start for n in range(60) for start in on_a_page]
    assert (await minilm.token_starts("")).tolist() == []


async def test_a_single_text_does_not_wait_for_hundreds(minilm: OnnxEmbedder) -> None:
    many = asyncio.create_task(
        minilm.embed(["ten words that say nothing at all of interest"] * 512)
    )
    await asyncio.sleep(0.3)
    start = time.perf_counter()

    one = await minilm.embed(["hello"])

    waited = time.perf_counter() - start
    assert one.vectors.shape == (1, 384)
    assert not many.done()
    assert (await many).vectors.shape == (512, 384)
    assert waited < 0.5 * (time.perf_counter() - start)


async def test_the_event_loop_goes_on_while_much_is_embedded(minilm: OnnxEmbedder) -> None:
    working = asyncio.create_task(minilm.embed(["some words to read " * 20] * 64))
    longest = 0.0

    while not working.done():
        start = time.perf_counter()
        await asyncio.sleep(0.005)
        longest = max(longest, time.perf_counter() - start)

    assert longest < 0.25


async def test_after_closing_it_refuses_and_closes_again(minilm_folder: Path) -> None:
    async with opened(minilm_folder) as embedder:
        await embedder.aclose()

        for texts in (["hello"], ["hello " * 200] * 20):
            with pytest.raises(OverloadedError):
                await embedder.embed(texts)
        assert embedder.problem


async def test_the_second_start_reads_the_graph_that_the_first_one_built(
    minilm_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(
        minilm_folder,
        folder,
        copy_function=shutil.copy2,
        ignore=shutil.ignore_patterns("*.galley-*"),
    )
    async with opened(folder) as embedder:
        first = await embedder.embed(["hello"])
    (graph,) = folder.glob("*.galley-*/graph.onnx")
    built = graph.stat()

    async with opened(folder) as embedder:
        second = await embedder.embed(["hello"])

    assert np.array_equal(first.vectors, second.vectors)
    assert graph.stat().st_mtime_ns == built.st_mtime_ns


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
@pytest.mark.parametrize("more", [(), ("token_type_ids",)])
async def test_an_exported_graph_is_pooled_by_the_mean(
    kind: int, more: tuple[str, ...], tmp_path: Path
) -> None:
    write_tokenizer(tmp_path)
    write_graph(tmp_path, inputs=("input_ids", "attention_mask", *more), kind=kind)

    async with opened(tmp_path) as embedder:
        found = await embedder.embed(["red", "red green blue a"])

    assert embedder.dimensions == 4
    assert np.allclose(found.vectors[0], mean_of("[CLS]", "red", "[SEP]"))
    assert np.allclose(found.vectors[1], mean_of("[CLS]", "red", "green", "blue", "a", "[SEP]"))
    assert found.tokens == 3 + 6


async def test_an_exported_graph_is_pooled_as_its_folder_says(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    write_graph(tmp_path)
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})

    async with opened(tmp_path) as embedder:
        found = await embedder.embed(["red green"])

    assert np.allclose(found.vectors[0], mean_of("[CLS]"))


async def test_a_sentence_embedding_is_taken_as_it_comes_at_length_one(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, special=False)
    write_graph(tmp_path, output="sentence_embedding")

    async with opened(tmp_path / "model.onnx") as embedder:  # the file names its folder
        found = await embedder.embed(["blue red"])

    assert np.allclose(found.vectors[0], mean_of("blue"))
    assert found.tokens == 2


async def test_a_text_without_any_tokens_has_a_vector(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, special=False)
    write_graph(tmp_path)

    async with opened(tmp_path) as embedder:
        found = await embedder.embed([" "])

    assert np.isfinite(found.vectors).all()


@pytest.mark.parametrize(
    ("graph", "complaint"),
    [
        ({"output": "logits"}, "gives logits"),
        ({"inputs": ("input_ids", "attention_mask", "pixel_values")}, "asks for .*pixel_values"),
        ({"inputs": ("input_ids",)}, "needed are input_ids and attention_mask"),
    ],
)
async def test_an_exported_graph_of_another_kind_is_refused(
    graph: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    write_tokenizer(tmp_path)
    write_graph(tmp_path, **graph)

    with pytest.raises(WeightsError, match=complaint):
        open_embedder(tmp_path, 1)
