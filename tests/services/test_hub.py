import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.hub import COMMIT, Hub, serving_hub

REPOSITORY = "org/small-model"
# The library writes in pieces of 10 MB: what is smaller has nothing to go on from.
GGUF = bytes(range(256)) * 98_304  # 25 MB
SOURCE = f"hf:{REPOSITORY}/small.gguf"
# The hub's address is read when its library is imported, so each fetch has a process of its own.
FETCH = """
import sys
from pathlib import Path
from galley.core.catalogue import ModelSettings
from galley.services.sources import SourceError, fetch, find
model = ModelSettings.model_validate_json(sys.argv[1])
try:
    path = fetch("small", model, Path(sys.argv[2]))
except SourceError as error:
    print("refused:", error)
else:
    assert find("small", model, Path(sys.argv[2])) == path
    print(path)
"""


@pytest.fixture
def hub() -> Generator[Hub]:
    with serving_hub({f"{REPOSITORY}/small.gguf": GGUF}) as hub:
        yield hub


def start_fetch(
    hub: Hub | str, models_dir: Path, *, kind: str = "chat", source: str = SOURCE, **more: Any
) -> "subprocess.Popen[str]":
    settings = {"kind": kind, "source": source}
    settings |= {name: more.pop(name, None) for name in ("sha256", "mmproj", "engine")}
    endpoint = hub if isinstance(hub, str) else hub.base_url
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, json.dumps(settings), str(models_dir)],
        env={"PATH": os.environ["PATH"], "HF_ENDPOINT": endpoint, "HOME": str(models_dir), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fetch(hub: Hub | str, models_dir: Path, **more: Any) -> str:
    """Fetch; return what was printed: the path, or why not."""
    with start_fetch(hub, models_dir, **more) as child:
        stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == 0, stderr
    return stdout.strip().splitlines()[-1]


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_file_arrives_whole_and_is_fetched_once(hub: Hub, tmp_path: Path) -> None:
    path = Path(fetch(hub, tmp_path))
    asked = len(hub.asked)

    again = fetch(hub, tmp_path)

    assert path == tmp_path / "small" / "small.gguf"
    assert path.read_bytes() == GGUF
    assert again == str(path)
    assert len(hub.asked) == asked
    assert not list(tmp_path.glob(".partial*"))


def test_the_eyes_of_a_model_are_fetched_with_it(hub: Hub, tmp_path: Path) -> None:
    hub.files[f"{REPOSITORY}/eyes.gguf"] = b"GGUF"

    path = Path(fetch(hub, tmp_path, mmproj=f"hf:{REPOSITORY}/eyes.gguf"))

    assert path == tmp_path / "small" / "small.gguf"
    assert (tmp_path / "small.mmproj" / "eyes.gguf").read_bytes() == b"GGUF"


def test_what_is_downloaded_is_the_commit_that_was_asked_about(hub: Hub, tmp_path: Path) -> None:
    fetch(hub, tmp_path)

    assert f"GET /{REPOSITORY}/resolve/{COMMIT}/small.gguf" in hub.asked


def test_a_download_cut_in_the_middle_goes_on_from_there(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = 1

    path = Path(fetch(hub, tmp_path))

    assert path.read_bytes() == GGUF
    assert re.search(r" bytes=[1-9]\d{6,}-$", hub.asked[-1])


def test_a_hub_that_cannot_go_on_in_the_middle_is_asked_for_all(hub: Hub, tmp_path: Path) -> None:
    hub.cuts, hub.ignores_ranges = 1, True

    assert Path(fetch(hub, tmp_path)).read_bytes() == GGUF


def test_a_fetch_that_was_killed_is_taken_up_by_the_next(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = 1_000  # after each, the library waits a second
    with start_fetch(hub, tmp_path) as child:
        _until(lambda: sum(path.stat().st_size for path in tmp_path.rglob("*.partial")) > 0)
        child.send_signal(signal.SIGKILL)
    arrived = sum(path.stat().st_size for path in tmp_path.rglob("*.partial"))
    hub.cuts = 0
    hub.asked.clear()

    path = Path(fetch(hub, tmp_path))

    assert path.read_bytes() == GGUF
    assert hub.asked[-1].endswith(f"bytes={arrived}-")


def test_a_file_that_is_not_what_the_hub_names_is_removed(hub: Hub, tmp_path: Path) -> None:
    hub.lies = True

    refusal = fetch(hub, tmp_path)

    assert "arrived broken" in refusal
    assert visible(tmp_path) == []
    assert not list(tmp_path.rglob("*.partial"))
    hub.lies = False
    assert Path(fetch(hub, tmp_path)).read_bytes() == GGUF


def test_the_hash_in_the_settings_is_the_one_that_counts(hub: Hub, tmp_path: Path) -> None:
    right = hashlib.sha256(GGUF).hexdigest()

    refusal = fetch(hub, tmp_path, sha256="0" * 64)

    assert "arrived broken" in refusal
    assert Path(fetch(hub, tmp_path, sha256=right)).read_bytes() == GGUF


def test_another_source_under_the_same_name_takes_the_old_ones_place(
    hub: Hub, tmp_path: Path
) -> None:
    hub.files[f"{REPOSITORY}/other.gguf"] = b"other"
    fetch(hub, tmp_path)

    path = Path(fetch(hub, tmp_path, source=f"hf:{REPOSITORY}/other.gguf"))

    assert path.read_bytes() == b"other"
    assert visible(tmp_path / "small") == ["other.gguf"]


def test_an_encoder_comes_with_the_files_that_its_engine_reads(hub: Hub, tmp_path: Path) -> None:
    hub.files |= {
        f"{REPOSITORY}/onnx/encoder.onnx": b"graph",
        f"{REPOSITORY}/tokenizer.json": b"{}",
        f"{REPOSITORY}/1_Pooling/config.json": b"{}",
        f"{REPOSITORY}/README.md": b"not wanted",
    }

    path = Path(
        fetch(hub, tmp_path, kind="embeddings", source=f"hf:{REPOSITORY}/onnx/encoder.onnx")
    )

    assert path.read_bytes() == b"graph"
    assert visible(path.parent) == ["1_Pooling", "model.onnx", "tokenizer.json"]
    assert visible(path.parent / "1_Pooling") == ["config.json"]


def test_a_classifier_comes_with_its_files_and_a_large_one_with_its_weights_beside_it(
    hub: Hub, tmp_path: Path
) -> None:
    names = ("config.json", "preprocessor_config.json", "labels.txt", "onnx/small.onnx_data")
    hub.files |= {f"{REPOSITORY}/{name}": b"{}" for name in names}
    hub.files[f"{REPOSITORY}/onnx/small.onnx"] = b"graph"

    path = Path(fetch(hub, tmp_path, kind="classify", source=f"hf:{REPOSITORY}/onnx/small.onnx"))

    assert path.name == "model.onnx"
    expected = ["config.json", "labels.txt", "model.onnx", "preprocessor_config.json"]
    assert visible(path.parent) == [*expected, "small.onnx_data"]


def test_a_model_for_torch_comes_with_what_transformers_reads_and_no_pickle(
    hub: Hub, tmp_path: Path
) -> None:
    names = ("config.json", "tokenizer.json", "chat_template.jinja", "pytorch_model.bin", "own.py")
    hub.files |= {f"{REPOSITORY}/{name}": b"{}" for name in names}
    hub.files[f"{REPOSITORY}/model.safetensors"] = b"weights"

    path = Path(fetch(hub, tmp_path, engine="torch", source=f"hf:{REPOSITORY}"))

    assert path == tmp_path / "small"
    expected = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
    assert visible(path) == expected
    asked = len(hub.asked)
    assert Path(fetch(hub, tmp_path, engine="torch", source=f"hf:{REPOSITORY}")) == path
    assert len(hub.asked) == asked


def test_weights_in_several_files_are_fetched_by_their_index(hub: Hub, tmp_path: Path) -> None:
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[1]}}
    hub.files |= {f"{REPOSITORY}/{name}": name.encode() for name in shards}
    hub.files[f"{REPOSITORY}/model.safetensors.index.json"] = json.dumps(index).encode()

    path = Path(fetch(hub, tmp_path, engine="torch", source=f"hf:{REPOSITORY}"))

    assert visible(path) == [*shards, "model.safetensors.index.json"]
    assert (path / shards[1]).read_bytes() == shards[1].encode()


@pytest.mark.parametrize(
    "index",
    [b"no json", b"{}", b"[]", b'{"weight_map": {"a": "../../evil.safetensors"}}',
     b'{"weight_map": {"a": "weights.bin"}}', b'{"weight_map": {"a": 1}}'],
)  # fmt: skip
def test_an_index_that_names_anything_but_safetensors_beside_it_is_refused(
    index: bytes, hub: Hub, tmp_path: Path
) -> None:
    hub.files[f"{REPOSITORY}/model.safetensors.index.json"] = index

    refusal = fetch(hub, tmp_path, engine="torch", source=f"hf:{REPOSITORY}")

    assert "is damaged, or names files elsewhere" in refusal
    assert not list(tmp_path.rglob("*evil*"))


def test_a_repository_with_pickles_alone_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files[f"{REPOSITORY}/pytorch_model.bin"] = b"pickle"

    refusal = fetch(hub, tmp_path, engine="torch", source=f"hf:{REPOSITORY}")

    assert "has no model.safetensors, and nothing else is loaded" in refusal


def test_a_model_for_torch_is_a_whole_repository(hub: Hub, tmp_path: Path) -> None:
    refusal = fetch(hub, tmp_path, engine="torch", source=f"hf:{REPOSITORY}/model.safetensors")

    assert "should read hf:ORGANISATION/REPOSITORY." in refusal


def test_two_processes_that_fetch_at_once_both_get_it(hub: Hub, tmp_path: Path) -> None:
    children = [start_fetch(hub, tmp_path) for _ in range(2)]

    printed = [child.communicate(timeout=60)[0].strip() for child in children]

    assert printed == [str(tmp_path / "small" / "small.gguf")] * 2
    assert (tmp_path / "small" / "small.gguf").read_bytes() == GGUF
    assert len([line for line in hub.asked if line.startswith(f"GET /{REPOSITORY}")]) == 1


def test_an_unreachable_hub_is_said_to_be_so_with_what_to_do(tmp_path: Path) -> None:
    refusal = fetch("http://127.0.0.1:9", tmp_path)

    assert "org/small-model/small.gguf could not be fetched from http://127.0.0.1:9" in refusal
    assert "Check the network" in refusal
    assert "path:" in refusal


def test_offline_mode_is_named(hub: Hub, tmp_path: Path) -> None:
    refusal = fetch(hub, tmp_path, HF_HUB_OFFLINE="1")

    assert "HF_HUB_OFFLINE is set" in refusal
    assert hub.asked == []


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (f"hf:{REPOSITORY}/absent.gguf", f"{REPOSITORY} has no absent.gguf"),
        ("hf:org/absent/small.gguf", "has no org/absent, or it is private"),
    ],
)
def test_what_the_hub_lacks_is_named(source: str, complaint: str, hub: Hub, tmp_path: Path) -> None:
    assert complaint in fetch(hub, tmp_path, source=source)


@pytest.mark.parametrize(
    ("status", "complaint"),
    [(500, "Try again later"), (403, "Set HF_TOKEN"), (401, "Set HF_TOKEN")],
)
def test_a_hub_that_refuses_is_quoted(
    status: int, complaint: str, hub: Hub, tmp_path: Path
) -> None:
    hub.refusal = status

    refusal = fetch(hub, tmp_path)

    assert f"answered {status}" in refusal
    assert complaint in refusal


@pytest.mark.parametrize(
    "source",
    ["hf:small.gguf", "hf:org/small.gguf", "hf:../../etc/passwd", "hf:org/repo/../../x.gguf"],
)
def test_a_source_that_names_no_file_of_a_repository_is_refused(
    source: str, hub: Hub, tmp_path: Path
) -> None:
    assert "should read hf:ORGANISATION/REPOSITORY/FILE" in fetch(hub, tmp_path, source=source)
    assert hub.asked == []


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
