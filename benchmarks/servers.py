"""What is measured: Galley, its llama.cpp child alone, and the peers, each a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from galley.core.catalogue import EMBEDDED_MODELS
from galley.core.security import make_key
from galley.engines.threads import chat_threads
from galley.services.sources import fetch_all

ROOT = Path(__file__).parents[1]
MODELS = ROOT / ".cache" / "models"
PHOTOS = sorted((ROOT / "tests" / "data" / "photos").glob("*.jpg"))
PEERS = ROOT / ".cache" / "peers"
LIMITS = {
    "requests_per_minute": 10**9,
    "requests_per_day": 10**9,
    "tokens_per_minute": 10**12,
    "tokens_per_day": 10**12,
    "concurrency": 10**6,
    "cost_per_day": 10**12,
    "cost_per_month": 10**12,
}
CHAT, EMBEDDINGS, CLASSIFY = EMBEDDED_MODELS
LONGEST_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; `started` is when its process was started, by `time.perf_counter`."""

    url: str
    key: str | None
    process: subprocess.Popen[str]
    started: float
    headers: Mapping[str, str] = field(default_factory=dict[str, str])  # sent with every request


def model_files() -> Mapping[str, Path]:
    """Return the embedded models' files by name; fetched once."""
    return fetch_all(EMBEDDED_MODELS, MODELS)


@contextmanager
def galley(*, slots: int = 4, ready: bool = True) -> Generator[Server]:
    """Serve with authentication and ledger on, in a data directory of its own.

    Args:
        ready: wait until every model is loaded, not only until the process is started.
    """
    model_files()
    key, port = make_key(), free_port()
    with tempfile.TemporaryDirectory(prefix="galley-bench-") as folder:
        model = EMBEDDED_MODELS[CHAT]
        lines = [f'[models."{CHAT}"]', 'kind = "chat"', f"source = {json.dumps(model.source)}"]
        lines += [f"context = {model.context}", f"slots = {slots}", ""]
        Path(folder, "galley.toml").write_text("\n".join(lines))
        environment = {n: v for n, v in os.environ.items() if not n.startswith("GALLEY_")} | {
            "GALLEY_DATA_DIR": folder,
            "GALLEY_MODELS_DIR": str(MODELS),
            "GALLEY_PORT": str(port),
            "GALLEY_BOOTSTRAP_KEY": key,
            "GALLEY_CACHE_BYTES": "0",
            "GALLEY_EMBEDDED_DOCUMENTS": "false",  # or it is indexing while it is measured
        }
        command = [str(Path(sys.executable).with_name("galley")), "serve"]
        with (
            Path(folder, "log").open("w") as log,
            start(command, environment, stdout=log, stderr=log) as (process, started),
        ):
            server = Server(f"http://127.0.0.1:{port}", key, process, started)
            if ready:
                wait_for(server, "/health/ready")
            yield server


@contextmanager
def llama(*, slots: int = 4) -> Generator[Server]:
    """Serve the chat model by the same child process that Galley starts, and nothing else."""
    settings = EMBEDDED_MODELS[CHAT]
    wanted = {
        "name": CHAT,
        "path": str(model_files()[CHAT]),
        "slots": slots,
        "context": settings.context,
        "threads": chat_threads(settings.threads),
        "gpu_layers": settings.gpu_layers,
        "secret": "raw",
    }
    command = [sys.executable, "-m", "galley.engines.llama_server"]
    pipe = subprocess.PIPE
    with start(command, os.environ, stdin=pipe, stdout=pipe) as (child, started):
        assert child.stdin
        assert child.stdout
        child.stdin.write(json.dumps(wanted) + "\n")
        child.stdin.flush()
        url = json.loads(child.stdout.readline())["url"]
        server = Server(url, "raw", child, started)
        wait_for(server, "/health")
        yield server


@contextmanager
def road(*, bare: bool) -> Generator[Server]:
    """Serve a model that answers at once, with everything on or by the bare road alone."""
    with _ours("benchmarks.road_server", *(["--bare"] if bare else [])) as server:
        yield server


@contextmanager
def watched() -> Generator[Server]:
    """Serve the classifier, with a clock in the event loop."""
    model_files()
    with _ours("benchmarks.watched_server", "--models-dir", str(MODELS)) as server:
        yield server


@contextmanager
def _ours(module: str, *arguments: str) -> Generator[Server]:
    key, port = make_key(), free_port()
    environment = {n: v for n, v in os.environ.items() if not n.startswith("GALLEY_")}
    with tempfile.TemporaryDirectory(prefix="galley-bench-") as folder:
        command = [sys.executable, "-m", module, "--port", str(port)]
        command += ["--data-dir", folder, "--key", key, *arguments]
        with (
            Path(folder, "log").open("w") as log,
            start(command, environment, stdout=log, stderr=log) as (process, started),
        ):
            server = Server(f"http://127.0.0.1:{port}", key, process, started)
            wait_for(server, "/health/ready")
            yield server


@contextmanager
def peer(script: str, *arguments: str) -> Generator[Server]:
    """Run a peer's server from `benchmarks/peers` in the peers' own environment."""
    port = free_port()
    path = ROOT / "benchmarks" / "peers" / script
    command = [str(PEERS / "bin" / "python"), str(path), "--port", str(port), *arguments]
    with (
        (PEERS / f"{path.stem}.log").open("w") as log,
        start(command, os.environ, stdout=log, stderr=log) as (process, started),
    ):
        server = Server(f"http://127.0.0.1:{port}", None, process, started)
        wait_for(server, "/health")
        yield server


def bill(server: Server, model: str) -> None:
    """Give `model` a price, and the caller limits."""
    me = _ask(server, "GET", "/v1/me")
    _ask(server, "PATCH", f"/v1/admin/users/{me['user_id']}", limits=LIMITS)
    _ask(server, "PUT", f"/v1/admin/prices/{model}", prompt=150_000, completion=600_000)


def add_user(
    server: Server,
    name: str = "other",
    *,
    scopes: Sequence[str] | None = None,
    limits: Mapping[str, int] = LIMITS,
) -> str:
    """Add a user, and return their key; null are all the scopes that they have."""
    user = _ask(server, "POST", "/v1/admin/users", email=f"{name}@example.org", name=name)
    path = f"/v1/admin/users/{user['id']}"
    _ask(server, "PATCH", path, limits=limits)
    return _ask(server, "POST", f"{path}/keys", name="bench", scopes=scopes)["key"]


def _ask(server: Server, method: str, path: str, **body: Any) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {server.key}", "content-type": "application/json"}
    sent = json.dumps(body).encode() if body else None
    request = urllib.request.Request(  # noqa: S310 - loopback
        server.url + path, data=sent, headers=headers, method=method
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
        return json.load(answer)


def has_peers() -> bool:
    """Whether `make bench-peers` was run."""
    return PEERS.exists()


def wait_for(server: Server, path: str) -> None:
    """Wait until `path` answers 200.

    Raises:
        TimeoutError: it does not within `LONGEST_START_S`, or the process ended.
    """
    while time.perf_counter() - server.started < LONGEST_START_S:
        if server.process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(server.url + path, timeout=5):  # noqa: S310 - loopback
                return
        except (urllib.error.HTTPError, OSError):
            time.sleep(0.01)
    raise TimeoutError(f"{server.process.args} did not answer")


@contextmanager
def start(
    command: list[str],
    environment: Mapping[str, str],
    *,
    stdin: int | None = None,
    stdout: int | IO[str] = subprocess.DEVNULL,
    stderr: int | IO[str] = subprocess.DEVNULL,
) -> Generator[tuple[subprocess.Popen[str], float]]:
    """Run a process, and end it and what it has started; when it began comes with it."""
    started = time.perf_counter()
    process: subprocess.Popen[str] = subprocess.Popen(
        command, env=environment, text=True, start_new_session=True, cwd=ROOT,
        stdin=stdin, stdout=stdout, stderr=stderr,
    )  # fmt: skip
    try:
        yield process, started
    finally:
        if process.stdin is not None:
            process.stdin.close()  # the llama.cpp child ends with it
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # LitServe leaves its workers behind
        process.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
