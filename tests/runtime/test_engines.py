"""How engines are opened, and closed when nobody waits for them any more."""

import asyncio
import gc
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from galley.core.catalogue import Kind, ModelSettings
from galley.runtime.engines import engine_opener
from galley.services.sources import SourceError
from tests.serving import make_settings

pytestmark = pytest.mark.anyio


async def test_a_model_whose_opening_is_called_off_leaves_nothing_open(tmp_path: Path) -> None:
    open_engine = engine_opener(make_settings(tmp_path, tmp_path, embedded_models=False))
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # from then on nobody is let in, and nobody is told
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        model = ModelSettings(kind="chat", source=f"https://127.0.0.1:{full.getsockname()[1]}/v1")
        opening = asyncio.ensure_future(open_engine("far", model))
        await asyncio.sleep(0.05)
        assert not opening.done()

        opening.cancel()
        (ended,) = await asyncio.gather(opening, return_exceptions=True)

    assert isinstance(ended, asyncio.CancelledError)
    del opening, ended
    gc.collect()  # a session that is open still would warn, and warnings are errors


@pytest.mark.parametrize("kind", ["chat", "embeddings", "classify"])
async def test_without_torch_a_model_that_needs_it_says_how_to_get_it(
    kind: Kind, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    open_engine = engine_opener(make_settings(tmp_path, tmp_path, embedded_models=False))
    model = ModelSettings(kind=kind, source=f"path:{tmp_path}", engine="torch")

    with pytest.raises(
        SourceError, match=r"torch.* not installed: run `pip install 'galley\[torch\]'"
    ):
        await open_engine("small", model)


async def test_what_is_no_model_of_transformers_is_told_apart_before_it_is_opened(
    tmp_path: Path,
) -> None:
    open_engine = engine_opener(make_settings(tmp_path, tmp_path, embedded_models=False))
    model = ModelSettings(kind="classify", source=f"path:{tmp_path}", engine="torch")

    with pytest.raises(SourceError, match=r"is no folder with config\.json"):
        await open_engine("small", model)
