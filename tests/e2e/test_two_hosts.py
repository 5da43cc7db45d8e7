"""Server and client on two hosts: network namespaces joined by a cable of their own."""

import os
import platform
import shutil
import subprocess
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from galley.cli.checks import CHECKS
from galley.core.security import make_key
from tests.cli.program import PROGRAM, Serving, environment

IP = shutil.which("ip", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or "ip"
PORT = 8000
FORBIDDEN = (
    "Operation not permitted",
    "Permission denied",
    "Operation not supported",
    "Unknown device type",
)


@dataclass(frozen=True)
class Host:
    """A network namespace with one address."""

    name: str
    address: str

    @property
    def within(self) -> list[str]:
        """What to write before a command to run it there."""
        return [IP, "netns", "exec", self.name]


def ip(*words: str) -> None:
    ran = subprocess.run([IP, *words], check=False, capture_output=True, text=True)
    if any(reason in ran.stderr for reason in FORBIDDEN):
        pytest.skip(f"this kernel or this user may not make network hosts: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran.stderr


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts that reach each other and nothing else; their names are this process's own."""
    if platform.system() != "Linux":
        pytest.skip("network namespaces are a thing of Linux")
    own = os.getpid()
    network = ip_address("10.200.0.0") + own * 4 % 65536  # of four addresses: a /30
    server = Host(f"galley-s{own}", f"{network + 1}")
    client = Host(f"galley-c{own}", f"{network + 2}")
    with ExitStack() as stack:
        for host in (server, client):
            ip("netns", "add", host.name)
            stack.callback(ip, "netns", "delete", host.name)  # the cable's end goes with it
        ends = (f"gs{own}", f"gc{own}")
        ip(
            "link", "add", ends[0], "netns", server.name,
            "type", "veth", "peer", "name", ends[1], "netns", client.name,
        )  # fmt: skip
        for host, end in zip((server, client), ends, strict=True):
            ip("-n", host.name, "address", "add", f"{host.address}/30", "dev", end)
            ip("-n", host.name, "link", "set", end, "up")
            ip("-n", host.name, "link", "set", "lo", "up")
        yield server, client


@contextmanager
def serving_on(host: Host, folder: Path, models_dir: Path, key: str) -> Generator[None]:
    """Run `galley serve` on `host`, its models loaded, until the block ends."""
    env = environment(folder, models_dir=models_dir, bootstrap_key=key, host="0.0.0.0", port=PORT)  # noqa: S104 - the whole of a network of two
    output, errors = folder / "serve.out", folder / "serve.err"
    with output.open("wb") as out, errors.open("wb") as err:
        command = [*host.within, PROGRAM, "serve"]  # ip becomes the server: signals reach it
        process = subprocess.Popen(command, env=env, stdout=out, stderr=err)
    try:
        Serving(process, env, output, errors).until("Ready after")
        yield
    finally:
        process.kill()
        process.wait()


def run_on(host: Host, *words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run `galley` on `host` to its end."""
    command = [*host.within, PROGRAM, *words]
    return subprocess.run(
        command, env=environment(folder), timeout=120, check=False,
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_demo_is_all_green_from_another_host(
    hosts: tuple[Host, Host], models_dir: Path, tmp_path: Path
) -> None:
    there, here = hosts
    key, url = make_key(), f"http://{there.address}:{PORT}"
    home = tmp_path / "client"  # nothing of the server's is at hand
    home.mkdir()

    with serving_on(there, tmp_path, models_dir, key):
        ran = run_on(here, "demo", "--server", url, "--key", key, folder=home)
        alone = run_on(here, "demo", "--server", f"http://127.0.0.1:{PORT}", folder=home)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{len(CHECKS)} checks, all green: {url}" in ran.stdout
    assert alone.returncode == 3, "the client has a server of its own"
