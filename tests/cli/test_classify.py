import json
from collections.abc import Mapping
from pathlib import Path

from tests.cli.conftest import Galley
from tests.loopback import http, scripted_server


def reply(*results: Mapping[str, object]) -> bytes:
    timings = dict.fromkeys(("decode", "queue", "inference", "total"), 1)
    rows = [{"index": i, "predictions": [], **result} for i, result in enumerate(results)]
    return http(
        json.dumps({"model": "m", "results": rows, "timings_ms": timings, "request_id": "r"})
    )


CUP = {"predictions": [{"label": "[cup]", "class_id": 1, "confidence": 0.5}]}


def test_a_table_shows_each_file_its_labels_and_how_likely_they_are(
    galley: Galley, tmp_path: Path
) -> None:
    photo = tmp_path / "[red]photo.png"
    photo.write_bytes(b"PNG")
    with scripted_server(reply(CUP)) as server:
        shown = galley("classify", photo, "--server", server.base_url)

    assert shown.exit_code == 0
    assert "[cup]" in shown.stdout
    assert "50.0%" in shown.stdout


def test_json_names_each_file(galley: Galley, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"PNG")
    with scripted_server(reply(CUP)) as server:
        shown = galley("classify", photo, "--json", "--top-k", 1, "--server", server.base_url)

    assert [row["file"] for row in json.loads(shown.stdout)] == [str(photo)]
    assert json.loads(server.requests[0].partition(b"\r\n\r\n")[2])["top_k"] == 1


def test_a_bad_picture_is_shown_and_fails_the_command(galley: Galley, tmp_path: Path) -> None:
    for name in ("good.png", "bad.png"):
        (tmp_path / name).write_bytes(b"PNG")
    with scripted_server(reply(CUP, {"error": "not an image"})) as server:
        shown = galley(
            "classify", tmp_path / "good.png", tmp_path / "bad.png", "--server", server.base_url
        )

    assert shown.exit_code == 1
    assert "[cup]" in shown.stdout
    assert "not an image" in shown.stdout


def test_more_pictures_than_one_request_takes_are_sent_in_several(
    galley: Galley, tmp_path: Path
) -> None:
    photos = [tmp_path / f"{n}.png" for n in range(33)]
    for photo in photos:
        photo.write_bytes(b"PNG")
    with scripted_server(reply(*[CUP] * 32), reply(CUP)) as server:
        shown = galley("classify", *photos, "--json", "--server", server.base_url)

    assert len(json.loads(shown.stdout)) == 33
    assert len(server.requests) == 2


def test_a_file_that_is_not_there_is_wrong_usage(galley: Galley, tmp_path: Path) -> None:
    shown = galley("classify", tmp_path / "none.png")

    assert shown.exit_code == 2
    assert "Invalid value" in shown.stderr


def test_an_empty_file_is_wrong_usage(galley: Galley, tmp_path: Path) -> None:
    (tmp_path / "none.png").touch()

    shown = galley("classify", tmp_path / "none.png")

    assert shown.exit_code == 2
    assert "is empty" in shown.stderr
