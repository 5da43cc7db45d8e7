import json
from pathlib import Path

from tests.cli.program import environment, run
from tests.serving import LiveServer


def test_several_processes_are_let_in_exactly_as_often_as_the_limit_says(
    live_server: LiveServer, tmp_path: Path
) -> None:
    here = ("--server", live_server.url, "--key", live_server.key)
    many = ("--limit", 30, "--processes", 2, "--threads", 8)

    shown = run("prove", "limits", *many, *here, "--json", env=environment(tmp_path))

    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout) == {"limit": 30, "admitted": 30, "refused": 16}


def test_it_needs_an_admin(live_server: LiveServer, tmp_path: Path) -> None:
    here = ("--server", live_server.url, "--key", live_server.key_of_new_user())

    shown = run("prove", "limits", *here, env=environment(tmp_path))

    assert shown.returncode == 1
    assert "admin:users" in shown.stderr
