"""The installed `galley` program, in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

PROGRAM = str(Path(sys.executable).with_name("galley"))
START_S = 60.0  # the longest a start may take, on a machine that does other things as well


def environment(data_dir: Path, **given: object) -> dict[str, str]:
    """What a fresh shell has, and `given` as GALLEY_ variables.

    Galley's own documentation is not indexed, which takes longer than most tests.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GALLEY_")}
    ours = {f"GALLEY_{name.upper()}": str(value) for name, value in given.items()}
    usual = {"GALLEY_DATA_DIR": str(data_dir), "GALLEY_EMBEDDED_DOCUMENTS": "false"}
    return kept | usual | ours


def run(
    *words: object, env: dict[str, str], timeout_s: float = START_S
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    command = [PROGRAM, *map(str, words)]
    return subprocess.run(
        command, env=env, timeout=timeout_s, check=False,
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@dataclass
class Serving:
    """A `galley serve` that runs."""

    process: "subprocess.Popen[bytes]"
    env: dict[str, str]
    output: Path
    errors: Path
    patience_s: float = START_S
    base_url: str = ""

    @property
    def said(self) -> str:
        """What it has printed until now."""
        return self.output.read_text()

    def until(self, words: str) -> str:
        """Wait until it has printed `words`, and return all that it has."""
        return self._until(words, self.output)

    def until_error(self, words: str) -> str:
        """The same for what it prints beside its output: notes, errors, logs."""
        return self._until(words, self.errors)

    def _until(self, words: str, file: Path) -> str:
        end = time.monotonic() + self.patience_s
        while words not in file.read_text():
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < end, file.read_text()
            time.sleep(0.02)
        return file.read_text()

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(sig)
        return self.process.wait(START_S)


@contextmanager
def serve(
    *words: str,
    env: dict[str, str],
    folder: Path,
    program: str = PROGRAM,
    patience_s: float = START_S,
) -> Generator[Serving]:
    """Run `galley serve` on a free port until the block ends; what it prints goes to `folder`."""
    output, errors = folder / "serve.out", folder / "serve.err"
    with output.open("wb") as out, errors.open("wb") as err:
        command = [program, "serve", "--port", "0", *words]
        process = subprocess.Popen(command, env=env, stdout=out, stderr=err)
    serving = Serving(process, env, output, errors, patience_s)
    try:
        banner = serving.until("Metrics")
        found = re.search(r"API +(http://\S+)", banner)
        assert found, banner
        serving.base_url = found[1]
        assert httpx2.get(f"{serving.base_url}/health/live").status_code == 200
        yield serving
    finally:
        if process.poll() is None:
            serving.stop()
