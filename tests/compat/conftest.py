"""Servers for the clients to talk to, and the environments that the clients are in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from galley.core.catalogue import ModelSettings
from tests.environments import install
from tests.llama import SECRET, raw_llama_server
from tests.serving import LiveServer, make_settings, serving


@pytest.fixture(scope="session")
def gateway(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose chat model runs on another one: a raw llama-server."""
    folder = tmp_path_factory.mktemp("gateway")
    secret = folder / "secret"
    secret.write_text(SECRET)
    with raw_llama_server(models_dir) as url:
        raw = ModelSettings(
            kind="chat",
            source=url,
            upstream_model="smollm2",
            api_key_file=secret,
            context=2048,
            slots=2,
            tools=False,  # its template knows none
            default=True,
        )
        with serving(make_settings(folder, models_dir, models={"raw": raw})) as server:
            server.until_ready()
            priced = server.client.put("/v1/admin/prices/raw", json={"prompt": 0})
            assert priced.status_code == 200, priced.text
            yield server


@pytest.fixture(scope="session")
def clients(models_dir: Path) -> None:
    """Every client, installed once for all workers; a test fails with the reason if that fails."""
    install("compat-clients", models_dir.parent)
