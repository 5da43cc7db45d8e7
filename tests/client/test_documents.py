"""The client's documents, both twins, against a real server."""

import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from galley.client import AsyncClient, Client, NotFoundError
from tests.serving import LiveServer

pytestmark = pytest.mark.anyio

TIDES = "# Tides\n\nThe moon pulls the sea, and twice a day the water rises."


class Either:
    """Calls one twin or the other, which answer alike."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self._client = client

    async def __call__(self, method: str, *args: Any, **options: Any) -> Any:
        answer = getattr(self._client, method)(*args, **options)
        return await answer if inspect.isawaitable(answer) else answer


@pytest.fixture
def key(live_server: LiveServer) -> str:
    return live_server.key_of_new_user()


@pytest.fixture(params=[Client, AsyncClient])
async def client(
    request: pytest.FixtureRequest, live_server: LiveServer, key: str
) -> AsyncIterator[Either]:
    made = request.param(live_server.url, key)
    yield Either(made)
    if isinstance(made, Client):
        made.close()
    else:
        await made.aclose()


async def test_texts_and_files_are_added_found_replaced_and_deleted(
    client: Either, tmp_path: Path
) -> None:
    file = tmp_path / 'odd "name".html'
    file.write_text("<p>Bread needs time.</p>")
    await client("create_collection", "my notes", description="Mine")

    text = await client(
        "add_document", TIDES, name="tides.md", collection="my notes", metadata={"year": 2026}
    )
    page = await client("add_document", file, metadata={"a": "b"}, background=False)
    found = await client("retrieve", "Why does the water rise?", collection=["my notes"])
    changed = await client("replace_document", page.id, "Bread is round.")
    listed = await client("documents", collection="my notes")
    shown = await client("document", page.id)
    gone = await client("delete_document", text.id)
    names = [collection.name for collection in await client("collections")]
    await client("delete_collection", "my notes")

    assert (text.metadata, page.metadata) == ({"year": 2026}, {"a": "b"})
    assert (page.name, page.media_type) == ('odd "name".html', "text/html")
    assert found.documents == [TIDES]
    assert found.passages[0].document_id == text.id
    assert changed.id == page.id
    assert [document.id for document in listed.data] == [text.id]
    assert shown.text == "Bread is round."
    assert gone.id == text.id
    assert {"my notes", "default"} <= set(names)
    with pytest.raises(NotFoundError):
        await client("document", text.id)
