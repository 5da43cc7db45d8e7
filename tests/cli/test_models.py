import json
import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Galley
from tests.cli.program import environment, run
from tests.hub import serving_hub
from tests.serving import LiveServer, make_settings, serving

NAMES = ["smollm2-135m-instruct", "all-minilm-l6-v2", "efficientnet-lite0"]


def written(data_dir: Path) -> dict[str, dict[str, object]]:
    return tomllib.loads((data_dir / "galley.toml").read_text())["models"]


def test_a_running_server_says_what_its_models_run_on(
    live_server: LiveServer, tmp_path: Path
) -> None:
    env = environment(tmp_path, api_key=live_server.key)

    shown = run("models", "list", "--server", live_server.url, "--json", env=env)

    rows = json.loads(shown.stdout)
    assert [row["name"] for row in rows] == NAMES
    assert {row["state"] for row in rows} == {"loaded"}
    assert all("CPU" in row["hardware"] or "GPU" in row["hardware"] for row in rows)


def test_without_a_server_the_settings_say_what_is_installed(
    galley: Galley, data_dir: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALLEY_BASE_URL", "http://127.0.0.1:9")
    missing = json.loads(galley("models", "list", "--json").stdout)
    monkeypatch.setenv("GALLEY_MODELS_DIR", str(models_dir))
    there = json.loads(galley("models", "list", "--json").stdout)

    assert {row["state"] for row in missing} == {"not installed"}
    assert {row["state"] for row in there} == {"installed"}
    assert {row["license"] for row in there} == {"Apache-2.0"}


def test_the_list_is_a_table_of_one_line_per_model(
    galley: Galley, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALLEY_BASE_URL", "http://127.0.0.1:9")

    lines = galley("models", "list").stdout.splitlines()

    assert [line.split()[0] for line in lines] == ["name", *NAMES]


def test_install_is_done_at_once_when_everything_is_there(
    galley: Galley, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALLEY_MODELS_DIR", str(models_dir))

    shown = galley("models", "install")

    assert shown.exit_code == 0
    assert shown.stderr == f"3 models are in {models_dir}.\n"


def test_install_without_a_network_fails_with_one_line_that_says_what_to_do(
    galley: Galley, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")

    shown = galley("models", "install")

    assert shown.exit_code == 1
    assert "Connect once and run `galley models install`" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_model_of_a_hub_is_fetched_and_written_into_the_file(tmp_path: Path) -> None:
    with serving_hub({"org/small/Small.Q4.gguf": b"GGUF"}) as hub:
        env = environment(tmp_path) | {"HF_ENDPOINT": hub.base_url}
        added = run("models", "add", "hf:org/small/Small.Q4.gguf", env=env)

    assert added.returncode == 0
    assert "Restart the server" in added.stdout
    assert written(tmp_path) == {
        "small.q4": {"kind": "chat", "source": "hf:org/small/Small.Q4.gguf"}
    }
    assert [path.read_bytes() for path in tmp_path.rglob("*.gguf")] == [b"GGUF"]


def test_a_model_that_cannot_be_fetched_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "galley.toml").write_text("# mine\n")
    env = environment(tmp_path) | {"HF_ENDPOINT": "http://127.0.0.1:9"}

    added = run("models", "add", "qwen2.5-1.5b", env=env)

    assert added.returncode == 1
    assert "could not be fetched" in added.stderr
    assert "Traceback" not in added.stderr
    assert (tmp_path / "galley.toml").read_text() == "# mine\n"


def test_a_model_of_another_server_is_said_to_need_a_price_until_it_has_one(tmp_path: Path) -> None:
    far = {"kind": "chat", "source": "http://127.0.0.1:9/v1"}
    settings = make_settings(tmp_path, tmp_path, embedded_models=False, models={"far": far})

    with serving(settings) as server:

        def add(folder: str) -> str:
            env = environment(tmp_path / folder, base_url=server.url, api_key=server.key)
            return run("models", "add", "http://127.0.0.1:9/v1", "--name", "far", env=env).stderr

        without = add("one")
        server.client.put("/v1/admin/prices/far", json={"prompt": 1})
        with_one = add("two")

    assert "(price_unknown)" in without
    assert "galley prices set far --prompt" in without
    assert with_one == ""


def test_a_model_joins_what_the_file_says_already(galley: Galley, data_dir: Path) -> None:
    weights = data_dir / "weights.gguf"
    weights.write_bytes(b"GGUF")
    (data_dir / "galley.toml").write_text("# mine\nport = 9000")

    galley("models", "add", f"path:{weights}", "--name", "two.5", "--default")
    galley("models", "add", "http://127.0.0.1:9/v1", "--name", "far", "--kind", "chat")

    text = (data_dir / "galley.toml").read_text()
    assert text.startswith("# mine\nport = 9000\n")
    assert written(data_dir) == {
        "two.5": {"kind": "chat", "source": f"path:{weights}", "default": True},
        "far": {"kind": "chat", "source": "http://127.0.0.1:9/v1"},
    }
    listed = json.loads(galley("models", "list", "--json").stdout)
    assert listed[0]["name"] == "two.5"


def test_a_name_that_is_taken_is_refused(galley: Galley, data_dir: Path) -> None:
    galley("models", "add", "http://127.0.0.1:9/v1", "--name", "far")
    before = (data_dir / "galley.toml").read_text()

    again = galley("models", "add", "http://127.0.0.1:9/v2", "--name", "far")

    assert again.exit_code == 1
    assert "Choose another: --name" in again.stderr
    assert (data_dir / "galley.toml").read_text() == before


@pytest.mark.parametrize("name", ["two words", "galley/chat", "/x", "a?b", "x" * 129])
def test_a_name_that_requests_could_not_use_is_wrong_usage(galley: Galley, name: str) -> None:
    shown = galley("models", "add", "http://127.0.0.1:9/v1", f"--name={name}")

    assert shown.exit_code == 2
    assert "cannot name a model" in shown.stderr


def test_the_name_of_an_embedded_model_is_refused(galley: Galley, data_dir: Path) -> None:
    shown = galley("models", "add", "http://127.0.0.1:9/v1", "--name", NAMES[0])

    assert shown.exit_code == 1
    assert "comes with Galley" in shown.stderr
    assert not (data_dir / "galley.toml").exists()


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("folder", "is a folder; name the GGUF file in it"),
        ("no.gguf", "is no GGUF file"),
        ("absent.gguf", "there is no"),
    ],
)
def test_what_is_no_chat_model_is_an_error_and_the_file_stays_as_it_was(
    galley: Galley, data_dir: Path, weights: str, said: str
) -> None:
    (data_dir / "folder").mkdir()
    (data_dir / "no.gguf").write_bytes(b"PK\x03\x04")

    shown = galley("models", "add", f"path:{data_dir / weights}", "--name", "mine")

    assert shown.exit_code == 1
    assert shown.stderr.splitlines()[-1].startswith("Error: ")
    assert said in shown.stderr
    assert not (data_dir / "galley.toml").exists()


def test_a_server_for_anything_but_chat_is_refused(galley: Galley) -> None:
    shown = galley("models", "add", "http://127.0.0.1:9/v1", "--kind", "embeddings")

    assert shown.exit_code == 2
    assert "Only chat models" in shown.stderr


def test_a_model_that_is_added_answers_for_its_kind_only_when_that_was_said(
    galley: Galley,
) -> None:
    galley("models", "add", "http://127.0.0.1:9/v1", "--name", "far")

    listed = json.loads(galley("models", "list", "--json").stdout)

    assert [row["name"] for row in listed] == [*NAMES, "far"]


def test_a_model_that_was_added_is_removed_and_all_else_stays(
    galley: Galley, data_dir: Path
) -> None:
    (data_dir / "galley.toml").write_text("# mine\nport = 9000\n\n")
    galley("models", "add", "http://127.0.0.1:9/v1", "--name", "far.away")
    with (data_dir / "galley.toml").open("a") as file:
        file.write('\n# the near one\n[models.near]\nkind = "chat"\nsource = "path:/x"\n')

    removed = galley("models", "remove", "far.away")

    assert removed.exit_code == 0
    text = (data_dir / "galley.toml").read_text()
    assert text.startswith("# mine\nport = 9000\n")
    assert "# the near one\n[models.near]" in text
    assert list(written(data_dir)) == ["near"]


def test_the_last_model_can_be_removed(galley: Galley, data_dir: Path) -> None:
    galley("models", "add", "http://127.0.0.1:9/v1", "--name", "far")

    removed = galley("models", "remove", "far")

    assert removed.exit_code == 0
    assert (data_dir / "galley.toml").read_text().strip() == ""


@pytest.mark.parametrize(
    ("name", "said"), [("nope", "no model 'nope'"), (NAMES[0], "GALLEY_EMBEDDED_MODELS=false")]
)
def test_what_the_file_does_not_name_cannot_be_removed(
    galley: Galley, name: str, said: str
) -> None:
    removed = galley("models", "remove", name)

    assert removed.exit_code == 1
    assert said in removed.stderr


def test_a_model_that_is_no_table_of_its_own_is_left_to_its_owner(
    galley: Galley, data_dir: Path
) -> None:
    inline = "models = {far = {kind = 'chat', source = 'http://127.0.0.1:9'}}\n"
    (data_dir / "galley.toml").write_text(inline)

    removed = galley("models", "remove", "far")

    assert removed.exit_code == 1
    assert "Edit it by hand" in removed.stderr
    assert (data_dir / "galley.toml").read_text() == inline


def test_a_second_default_is_refused(galley: Galley) -> None:
    galley("models", "add", "http://127.0.0.1:9/v1", "--name", "one", "--default")

    second = galley("models", "add", "http://127.0.0.1:9/v1", "--name", "two", "--default")

    assert second.exit_code == 1
    assert "one is the default chat model already" in second.stderr


def test_a_file_that_cannot_be_added_to_is_left_alone(galley: Galley, data_dir: Path) -> None:
    inline = "models = {far = {kind = 'chat', source = 'http://127.0.0.1:9'}}\n"
    (data_dir / "galley.toml").write_text(inline)

    added = galley("models", "add", "http://127.0.0.1:9/v1", "--name", "two")

    assert added.exit_code == 1
    assert '[models."two"]' in added.stderr
    assert (data_dir / "galley.toml").read_text() == inline


def test_what_is_neither_a_preset_nor_a_source_is_wrong_usage(galley: Galley) -> None:
    shown = galley("models", "add", "gpt-9")

    assert shown.exit_code == 2
    assert "qwen2.5-1.5b" in shown.stderr
