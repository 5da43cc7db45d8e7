"""Environments of their own, for what does not go into ours."""

import subprocess
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).parents[1]


def install(script: str, cache: Path) -> None:
    """Run one of `scripts`, which installs what is not there yet; one worker at a time.

    A test fails with what the script said if that fails: it is never left out.
    """
    with FileLock(cache / f"{script}.lock"):
        done = subprocess.run(
            ["sh", f"scripts/{script}"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, f"scripts/{script} failed:\n{done.stdout}{done.stderr}"
