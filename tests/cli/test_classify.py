import json
import os
import pty
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Galley
from tests.cli.program import PROGRAM, environment, run
from tests.loopback import http, scripted_server
from tests.serving import LiveServer

PHOTOS = Path(__file__).parents[1] / "data" / "photos"
CUP = [{"label": "[cup]", "class_id": 1, "confidence": 0.5}]


def first() -> bytes:
    """What version 1 answers."""
    cup = {"label": "[cup]", "confidence": 0.5}
    return http(json.dumps({"predictions": [cup], "model": "m"}))


def second(*results: Mapping[str, object], request_id: str = "r", decode: float = 1) -> bytes:
    """What version 2 answers."""
    timings = {"decode": decode, "queue": 2.5, "inference": 30, "total": 45.5}
    rows = [{"index": i, "predictions": CUP, **result} for i, result in enumerate(results)]
    told = {"model": "m", "results": rows, "timings_ms": timings, "request_id": request_id}
    return http(json.dumps(told))


def no(message: str, status: str = "400 Bad Request") -> bytes:
    return http(json.dumps({"detail": message, "code": "c"}), status=status, request_id="req_1")


def body(request: bytes) -> dict[str, object]:
    return json.loads(request.partition(b"\r\n\r\n")[2])


def files(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).write_bytes(b"PNG")
    return [folder / name for name in names]


def test_a_table_shows_each_file_its_labels_and_how_likely_they_are(
    galley: Galley, tmp_path: Path
) -> None:
    with scripted_server(first()) as server:
        shown = galley("classify", *files(tmp_path, "[red]p.png"), "--server", server.base_url)

    assert shown.exit_code == 0
    assert "[red]p.png" in shown.stdout
    assert "[cup]" in shown.stdout
    assert "50.0%" in shown.stdout
    assert server.requests[0].startswith(b"POST /v1/classify ")


def test_json_is_a_list_that_names_each_file(galley: Galley, tmp_path: Path) -> None:
    photos = files(tmp_path, "a.png", "b.png")
    with scripted_server(first(), no("not an image")) as server:
        shown = galley("classify", *photos, "--json", "--server", server.base_url)

    assert json.loads(shown.stdout) == [
        {
            "file": str(photos[0]),
            "predictions": [{"label": "[cup]", "confidence": 0.5}],
            "error": None,
            "model": "m",
        },
        {
            "file": str(photos[1]),
            "predictions": [],
            "error": "not an image",
            "request_id": "req_1",
        },
    ]


@pytest.mark.parametrize("refusal", ["400 Bad Request", "413 Content Too Large"])
def test_what_is_no_picture_fails_the_command_and_the_others_go_on(
    galley: Galley, tmp_path: Path, refusal: str
) -> None:
    photos = files(tmp_path, "bad.png", "good.png")
    with scripted_server(no("not an image", refusal), first()) as server:
        shown = galley("classify", *photos, "--server", server.base_url)

    assert shown.exit_code == 1
    assert "not an image" in shown.stdout
    assert "[cup]" in shown.stdout


def test_version_2_shows_a_bad_picture_among_the_others(galley: Galley, tmp_path: Path) -> None:
    photos = files(tmp_path, "good.png", "bad.png")
    bad = {"predictions": [], "error": "not an image"}
    with scripted_server(second({}, bad)) as server:
        shown = galley("classify", *photos, "--v2", "--server", server.base_url)

    assert shown.exit_code == 1
    assert "[cup]" in shown.stdout
    assert "not an image" in shown.stdout


def test_version_2_sends_up_to_32_pictures_at_once_and_shows_where_each_requests_time_went(
    galley: Galley, tmp_path: Path
) -> None:
    photos = files(tmp_path, *[f"{n}.png" for n in range(33)])
    answers = [second(*[{}] * 32, request_id="req_1"), second({}, request_id="req_2", decode=7.25)]
    with scripted_server(*answers) as server:
        shown = galley("classify", *photos, "--v2", "--server", server.base_url)

    assert [len(body(request)["images"]) for request in server.requests] == [32, 1]  # pyright: ignore[reportArgumentType] - it is a list
    assert [line.split() for line in shown.stdout.splitlines()[-2:]] == [
        ["req_1", "32", "1.0", "2.5", "30.0", "45.5"],
        ["req_2", "1", "7.2", "2.5", "30.0", "45.5"],
    ]


def test_json_of_version_2_has_the_timings_of_each_pictures_request(
    galley: Galley, tmp_path: Path
) -> None:
    photos = files(tmp_path, "a.png")
    with scripted_server(second({"width": 4, "height": 3})) as server:
        shown = galley("classify", *photos, "--v2", "--json", "--server", server.base_url)

    (row,) = json.loads(shown.stdout)
    assert (row["width"], row["height"], row["request_id"]) == (4, 3, "r")
    assert row["timings_ms"]["total"] == 45.5


@pytest.mark.parametrize(
    ("option", "value"), [("top_k", 1), ("threshold", 0.5), ("model", "other")]
)
def test_an_option_that_version_1_lacks_asks_version_2(
    galley: Galley, tmp_path: Path, option: str, value: object
) -> None:
    flag = f"--{option.replace('_', '-')}"
    photos = files(tmp_path, "a.png")
    with scripted_server(second({})) as server:
        galley("classify", *photos, flag, value, "--server", server.base_url)

    assert server.requests[0].startswith(b"POST /v2/classify ")
    assert body(server.requests[0])[option] == value


def test_no_label_that_is_likely_enough_is_said(galley: Galley, tmp_path: Path) -> None:
    photos = files(tmp_path, "a.png")
    with scripted_server(second({"predictions": []})) as server:
        shown = galley("classify", *photos, "--threshold", 0.9, "--server", server.base_url)

    assert shown.exit_code == 0
    assert "no label is likely enough" in shown.stdout


@pytest.mark.parametrize("flags", [[], ["--v2"]])
def test_an_empty_file_is_not_sent_and_the_others_keep_their_places(
    galley: Galley, tmp_path: Path, flags: list[str]
) -> None:
    empty = tmp_path / "0.png"
    empty.touch()
    answer = second({}) if flags else first()
    with scripted_server(answer) as server:
        shown = galley(
            "classify", empty, *files(tmp_path, "a.png"), empty,
            *flags, "--json", "--server", server.base_url,
        )  # fmt: skip

    rows = json.loads(shown.stdout)
    assert shown.exit_code == 1
    assert [Path(row["file"]).name for row in rows] == ["0.png", "a.png", "0.png"]
    assert ["empty" in (row["error"] or "") for row in rows] == [True, False, True]
    assert len(server.requests) == 1


def test_pictures_that_are_too_much_for_one_request_are_sent_in_halves(
    galley: Galley, tmp_path: Path
) -> None:
    photos = files(tmp_path, "a.png", "b.png", "c.png")
    large = no("too large", "413 Content Too Large")
    with scripted_server(large, large, second({}, {})) as server:
        shown = galley("classify", *photos, "--v2", "--json", "--server", server.base_url)

    assert [row["error"] for row in json.loads(shown.stdout)] == ["too large", None, None]


def test_what_was_found_is_shown_when_the_server_then_says_no(
    galley: Galley, tmp_path: Path
) -> None:
    photos = files(tmp_path, "a.png", "b.png")
    with scripted_server(first(), no("Slow down.", "429 Too Many Requests")) as server:
        shown = galley("classify", *photos, "--server", server.base_url)

    assert shown.exit_code == 1
    assert "[cup]" in shown.stdout
    assert "Slow down." in shown.stderr


def test_of_a_folder_all_pictures_are_asked_about_in_their_order(
    galley: Galley, tmp_path: Path
) -> None:
    (tmp_path / "trip").mkdir()
    files(tmp_path / "trip", "b.JPG", "a.png", "notes.txt", ".hidden")
    (single,) = files(tmp_path, "c.webp")
    with scripted_server(second({}, {}, {})) as server:
        shown = galley(
            "classify", tmp_path / "trip", single, "--v2", "--json", "--server", server.base_url
        )

    assert [Path(row["file"]).name for row in json.loads(shown.stdout)] == [
        "a.png",
        "b.JPG",
        "c.webp",
    ]


def test_a_folder_without_pictures_is_wrong_usage(galley: Galley, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()

    refused = galley("classify", tmp_path, "--server", "http://127.0.0.1:9")

    assert refused.exit_code == 2
    assert "There are no pictures" in refused.stderr


def test_a_file_that_is_not_there_is_wrong_usage(galley: Galley, tmp_path: Path) -> None:
    shown = galley("classify", tmp_path / "none.png")

    assert shown.exit_code == 2
    assert "Invalid value" in shown.stderr


def test_a_folder_of_copies_that_cannot_be_made_is_said_before_anything_is_sent(
    galley: Galley, tmp_path: Path
) -> None:
    (photo,) = files(tmp_path, "a.png")
    with scripted_server() as server:
        shown = galley("classify", photo, "--annotate", photo / "in", "--server", server.base_url)

    assert shown.exit_code == 2
    assert "cannot be made" in shown.stderr
    assert server.requests == []


def test_copies_never_replace_a_file_and_what_they_are_called_is_said(
    galley: Galley, tmp_path: Path
) -> None:
    photo = tmp_path / "a.png"
    Image.new("RGB", (640, 480)).save(photo)
    before = photo.read_bytes()
    with scripted_server(first(), first()) as server:
        shown = galley(
            "classify", photo, photo, "--annotate", tmp_path, "--json", "--server", server.base_url
        )

    assert photo.read_bytes() == before
    copies = [str(tmp_path / "a-2.png"), str(tmp_path / "a-3.png")]
    assert [row["annotated"] for row in json.loads(shown.stdout)] == copies
    for copy in copies:
        with Image.open(copy) as opened:
            assert opened.size == (640, 480)
        assert copy in shown.stderr


def test_a_picture_that_cannot_be_drawn_on_fails_and_keeps_its_labels(
    galley: Galley, tmp_path: Path
) -> None:
    photos = files(tmp_path, "a.png")
    with scripted_server(first()) as server:
        shown = galley(
            "classify", *photos, "--annotate", tmp_path / "out", "--server", server.base_url
        )

    assert shown.exit_code == 1
    assert "No copy" in shown.stdout
    assert "[cup]" in shown.stdout
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("flags", [[], ["--v2"]])
def test_photographs_are_recognized_and_copied_with_their_labels(
    live_server: LiveServer, tmp_path: Path, flags: list[str]
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    out = tmp_path / "out"

    env = environment(tmp_path, base_url=live_server.url, api_key=live_server.key)

    done = run(
        "classify", *sorted(PHOTOS.glob("*.jpg")), text, *flags, "--annotate", out, "--json",
        env=env,
    )  # fmt: skip

    rows = json.loads(done.stdout)
    assert done.returncode == 1
    best = [row["predictions"][0]["label"] for row in rows[:3]]
    assert best == ["Egyptian cat", "espresso", "missile"]
    assert "cannot be read" in rows[3]["error"]
    assert sorted(file.name for file in out.iterdir()) == ["cat.jpg", "coffee.jpg", "rocket.jpg"]


@pytest.mark.parametrize("watched", [True, False])
def test_a_progress_bar_is_there_for_those_who_watch(tmp_path: Path, watched: bool) -> None:
    ours, theirs = pty.openpty()
    photos = files(tmp_path, "a.png", "b.png")
    env = environment(tmp_path) | {"TERM": "xterm"}
    with scripted_server(first(), first()) as server:
        done = subprocess.run(
            [PROGRAM, "classify", *map(str, photos), "--server", server.base_url],
            env=env, check=True, timeout=60, text=True,
            stdout=subprocess.PIPE, stderr=theirs if watched else subprocess.PIPE,
        )  # fmt: skip
    os.close(theirs)
    errors = os.read(ours, 65_536).decode() if watched else done.stderr
    os.close(ours)

    assert ("Classifying" in errors) is watched
    assert ("2/2" in errors) is watched
    assert "Classifying" not in done.stdout
    assert "[cup]" in done.stdout
