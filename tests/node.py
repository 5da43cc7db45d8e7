"""`galley serve` in a process of its own, to be stopped, killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_ready(url: str) -> bool:
    """Whether the server there says that it is."""
    try:
        return httpx2.get(f"{url}/health/ready").status_code == 200
    except httpx2.TransportError:
        return False


@dataclass
class Node:
    """One server, always on the same port.

    Args:
        folder: where its log is.
        environment: its settings, and what else it is to find there.
        through: words before its command, such as `prlimit` and its options.
    """

    folder: Path
    environment: dict[str, str]
    through: Sequence[str] = ()
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.port}.log"

    @property
    def running(self) -> psutil.Process:
        """The process, to be looked at."""
        assert self.process, "it was never started"
        return psutil.Process(self.process.pid)

    def client(self, key: str) -> httpx2.Client:
        """A client of this server, to be closed."""
        headers = {"authorization": f"Bearer {key}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30)

    def start(self, *, wait: bool = True) -> None:
        """Start it; it is ready when this returns."""
        command = [*self.through, str(Path(sys.executable).with_name("galley")), "serve"]
        own = self.environment | {"GALLEY_PORT": str(self.port)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
        if wait:
            self.until_ready()

    def until_ready(self) -> None:
        """Wait until it is."""
        end = time.monotonic() + 60
        while not is_ready(self.url):
            assert self.process, "it was never started"
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def health(self) -> dict[str, str]:
        """How its parts are."""
        return httpx2.get(f"{self.url}/health", timeout=10).json()["parts"]

    def stop(self) -> int:
        """End it as an operator would; returns the exit status."""
        assert self.process
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        """End it as no operator should."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


@contextmanager
def running(node: Node) -> Generator[Node]:
    """Start `node`, and kill it when the block ends."""
    try:
        node.start()
        yield node
    finally:
        node.kill()


def own_settings(data_dir: Path, key: str, **more: str) -> dict[str, str]:
    """The settings of a server that indexes nothing of its own."""
    return {
        "GALLEY_DATA_DIR": str(data_dir),
        "GALLEY_BOOTSTRAP_KEY": key,
        "GALLEY_EMBEDDED_DOCUMENTS": "false",
        **more,
    }


@contextmanager
def galley_serve(
    data_dir: Path, models_dir: Path, key: str, **more: str
) -> Generator[tuple[str, int]]:
    """Run a server with the embedded models; yields its URL and process id."""
    settings = own_settings(data_dir, key, GALLEY_MODELS_DIR=str(models_dir), **more)
    with running(Node(data_dir, settings)) as node:
        yield node.url, node.running.pid
