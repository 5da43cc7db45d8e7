"""The disk is full: what cannot be booked is not answered, nothing is torn, and it passes."""

import resource
import sqlite3
import subprocess
import time
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.cli.program import environment, run
from tests.lone_server import CHAT, HELLO, LoneServer, lone_server
from tests.waiting import until

SIZE_MB = 48
UPLOAD = {"file": ("large.bin", bytes(4_000_000))}
PURPOSE = {"purpose": "user_data"}
EXPORT = {"task": "export", "params": {"format": "jsonl"}}


@dataclass
class Disk:
    """A small disk; where mounting is forbidden, a bound on how large a file may become."""

    folder: Path
    mounted: bool

    def fill(self, server: LoneServer) -> None:
        """Leave no room for anything."""
        if self.mounted:
            for size in (1_000_000, 4_096):
                with suppress(OSError), self._ballast.open("ab", buffering=0) as ballast:
                    while True:
                        ballast.write(bytes(size))
        else:
            largest = max(path.stat().st_size for path in self.folder.iterdir() if path.is_file())
            _limit_files(server.node.running, largest)

    def clear(self, server: LoneServer) -> None:
        """Make room again."""
        if self.mounted:
            self._ballast.unlink()
        else:
            _limit_files(server.node.running, resource.RLIM_INFINITY)

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"


def _limit_files(process: psutil.Process, most: int) -> None:
    process.rlimit(psutil.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=700", "galley-test", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    yield Disk(folder, mounted)
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_what_cannot_be_booked_is_refused_and_all_is_as_before_when_there_is_room(
    disk: Disk, rounds: int
) -> None:
    with lone_server(disk.folder) as server, server.client() as api:
        seen: list[str] = []
        for _ in range(rounds):
            with server.load() as load:
                load.until(20)
                disk.fill(server)
                until(lambda load=load: len(load.failed) > 3)
                upload = api.post("/v1/files", files=UPLOAD, data=PURPOSE)
                job = api.post("/process", json=EXPORT)
                live, ready = api.get("/health/live"), api.get("/health/ready")
                disk.clear(server)
                until(lambda: api.get("/health/ready").status_code == 200)
                normal = time.monotonic()
                load.until(load.count + 20)
            seen += load.whole

            assert [failure for failure in load.failed if not failure.is_put_off] == []
            assert [failure for failure in load.failed if failure.at > normal + 1] == []
            assert (upload.status_code, upload.json()["error"]["code"]) == (503, "disk_full")
            assert (job.status_code, job.headers["retry-after"]) == (503, "1")
            assert (live.status_code, ready.status_code) == (200, 503)
            assert ready.json()["parts"]["database"] == "cannot be written"
        kept = api.post("/v1/files", files=UPLOAD, data=PURPOSE).json()["id"]
        content = api.get(f"/v1/files/{kept}/content").content
        chat = api.post(CHAT, json=HELLO).status_code
        status = server.node.stop()
        states = server.states()
        audit = run("audit", env=environment(disk.folder))
        with closing(sqlite3.connect(disk.folder / "galley.db")) as database:
            checked = database.execute("PRAGMA integrity_check").fetchall()

        assert (chat, status, content) == (200, 0, UPLOAD["file"][1])
        assert {states[request_id] for request_id in seen} == {"completed"}
        assert "open" not in states.values()
        assert [path.suffix for path in (disk.folder / "files").iterdir()] == [""]
        assert checked == [("ok",)]
        assert audit.returncode == 0, audit.stdout + audit.stderr
