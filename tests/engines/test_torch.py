"""Models of transformers on torch, served by a Galley that has it (`make torch`)."""

import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from galley.core.security import make_key
from tests.cli.program import environment, serve
from tests.environments import ROOT, install
from tests.sse import DONE, read_events

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("torch")]

PHOTOS = sorted((ROOT / "tests" / "data" / "photos").glob("*.jpg"))
LOADING_S = 120.0
CONTEXT = 512


@dataclass(frozen=True)
class Served:
    """A server, the models behind it, and what transformers itself says with them."""

    client: httpx2.Client
    folder: Path
    log: Path
    told: dict[str, Any]

    def post(self, path: str, **body: Any) -> httpx2.Response:
        return self.client.post(path, json=body)

    def chat(self, prompt: str, **more: Any) -> httpx2.Response:
        turns = [{"role": "user", "content": prompt}]
        return self.post("/v1/chat/completions", **{"model": "talker", "messages": turns} | more)

    def until_loaded(self) -> None:
        end = time.monotonic() + LOADING_S
        while "loading" in (states := self.states()).values():
            assert time.monotonic() < end, states
            time.sleep(0.2)

    def states(self) -> dict[str, str]:
        rows = self.client.get("/v1/models").json()["data"]
        return {row["id"]: row["status"] for row in rows}


@pytest.fixture(scope="module")
def torch_bin(models_dir: Path) -> Path:
    """Where Galley is with torch; `make torch` installs it as well."""
    install("torch-environment", models_dir.parent)
    return ROOT / ".cache" / "torch" / "bin"


@pytest.fixture(scope="module")
def served(torch_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("torch")
    script = Path(__file__).with_name("torch") / "make_models.py"
    made = subprocess.run(
        [torch_bin / "python", "-W", "ignore", script, folder, *PHOTOS],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    kinds = {"resnet": "classify", "vit": "classify", "pickle": "classify", "code": "classify"}
    kinds |= {"sentences": "embeddings", "talker": "chat"}
    lines = [f"context = {CONTEXT}", "slots = 4"]
    (folder / "galley.toml").write_text(
        "\n".join(
            f'[models.{name}]\nkind = "{kind}"\nengine = "torch"\n'
            f'source = "path:{folder / name.replace("talker", "chat")}"\n'
            + ("\n".join(lines) + "\n" if kind == "chat" else "")
            for name, kind in kinds.items()
        )
    )
    key = make_key()
    env = environment(folder, bootstrap_key=key, embedded_models="false", cache_bytes=0)
    program = str(torch_bin / "galley")
    with serve(env=env | {"PYTHONPATH": str(ROOT)}, folder=folder, program=program) as server:
        headers = {"authorization": f"Bearer {key}"}
        with httpx2.Client(base_url=server.base_url, headers=headers, timeout=60) as client:
            found = Served(client, folder, server.errors, json.loads(made.stdout))
            found.until_loaded()
            yield found


def test_what_fits_is_loaded_and_says_where_it_runs(served: Served) -> None:
    rows = {row["id"]: row for row in served.client.get("/v1/models").json()["data"]}

    good = ("resnet", "vit", "sentences", "talker")
    assert {name: rows[name]["status"] for name in good} == dict.fromkeys(good, "loaded")
    assert all(rows[name]["hardware"].startswith(("CPU, ", "GPU (")) for name in good)


@pytest.mark.parametrize("model", ["resnet", "vit"])
def test_a_classifier_says_what_transformers_says(served: Served, model: str) -> None:
    images = [{"image": base64.b64encode(path.read_bytes()).decode()} for path in PHOTOS]

    answer = served.post("/v2/classify", images=images, model=model, top_k=8)

    assert answer.json()["model"] == model
    for path, result in zip(PHOTOS, answer.json()["results"], strict=True):
        expected = served.told[model][path.name]
        found = {row["label"]: row["confidence"] for row in result["predictions"]}
        assert found == pytest.approx(expected, abs=0.01)
        assert next(iter(found)) == next(iter(expected))


def test_an_encoder_says_what_transformers_says(served: Served) -> None:
    told = served.told["sentences"]

    answer = served.post("/v1/embeddings", model="sentences", input=list(told))

    vectors = np.array([row["embedding"] for row in answer.json()["data"]])
    assert np.allclose(vectors, list(told.values()), atol=1e-5)


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_model_says_what_transformers_says(served: Served, stream: bool) -> None:
    for prompt, expected in served.told["chat"].items():
        asked: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "stream": stream}
        if stream:
            asked["stream_options"] = {"include_usage": True}
        answer = served.chat(prompt, **asked)

        text, reason, usage = read(answer, stream=stream)
        assert text == expected["text"]
        assert reason == "length" if expected["tokens"] == 24 else "stop"
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (
            expected["prompt"],
            expected["tokens"],
        )


def read(answer: httpx2.Response, *, stream: bool) -> tuple[str, str, dict[str, int]]:
    """The text of an answer, why it ended, and its tokens."""
    assert answer.status_code == 200, answer.text
    if not stream:
        (choice,) = answer.json()["choices"]
        return choice["message"]["content"], choice["finish_reason"], answer.json()["usage"]
    *chunks, done = read_events(answer)
    assert done == DONE
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    return text, reasons[0], chunks[-1]["usage"]


def test_answers_made_at_the_same_time_are_those_made_alone(served: Served) -> None:
    told = served.told["chat"]
    prompts = [*told, *told]
    texts: list[str] = [""] * len(prompts)

    def ask(number: int) -> None:
        answer = served.chat(prompts[number], temperature=0, max_tokens=24)
        texts[number] = answer.json()["choices"][0]["message"]["content"]

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(len(prompts))]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()

    assert texts == [told[prompt]["text"] for prompt in prompts]


def test_several_answers_are_sampled_apart(served: Served) -> None:
    answer = served.chat("Hello", n=4, temperature=1.5, max_tokens=24)

    texts = {choice["message"]["content"] for choice in answer.json()["choices"]}
    assert len(texts) == 4


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 0.0001}])
def test_a_narrow_choice_is_the_likeliest(served: Served, narrow: dict[str, Any]) -> None:
    answer = served.chat("Hello", temperature=1.5, max_tokens=24, **narrow)

    assert answer.json()["choices"][0]["message"]["content"] == served.told["chat"]["Hello"]["text"]


def test_a_stop_sequence_ends_an_answer_and_its_work(served: Served) -> None:
    text = served.told["chat"]["Hello"]["text"]
    stop = text[6:9]

    answer = served.chat("Hello", temperature=0, max_tokens=24, stop=stop)

    said, reason, usage = read(answer, stream=False)
    assert said == text[: text.index(stop)]
    assert reason == "stop"
    assert usage["completion_tokens"] < 24


def test_a_completion_goes_on_from_text_and_from_tokens(served: Served) -> None:
    asked = {"model": "talker", "max_tokens": 8, "temperature": 0}
    tokens = [75, 72]
    whole = served.post("/v1/completions", **asked, prompt=["Hello", "Hello"]).json()
    by_number = served.post("/v1/completions", **asked, prompt=tokens)
    unknown = served.post("/v1/completions", **asked, prompt=[100_000])

    assert whole["choices"][0]["text"] == whole["choices"][1]["text"] != ""
    assert by_number.json()["usage"]["prompt_tokens"] == len(tokens)
    assert unknown.status_code == 400
    assert "100000" in unknown.json()["error"]["message"]


def test_a_hang_up_ends_the_work_and_the_model_answers_others(served: Served) -> None:
    turns = [{"role": "user", "content": "Hello"}]
    asked = {"model": "talker", "messages": turns, "stream": True, "temperature": 0}
    with served.client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        identity = answer.headers["request-id"]
        next(answer.iter_lines())

    end = time.monotonic() + 20
    while not (row := served.client.get(f"/v1/requests/{identity}").json()).get("status"):
        assert time.monotonic() < end, "it was never settled"
        time.sleep(0.05)
    assert row["status"] == 499
    assert 0 < row["completion_tokens"] < CONTEXT // 2
    assert served.chat("Hello", temperature=0, max_tokens=2).status_code == 200


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"seed": 0}, "seed"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    served: Served, more: dict[str, Any], param: str
) -> None:
    refused = served.chat("Hello", **more)

    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "unsupported_parameter"
    assert refused.json()["error"]["param"] == param


def test_neutral_values_are_no_wishes(served: Served) -> None:
    neutral = {"frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}, "logprobs": False}

    answer = served.chat("Hello", max_tokens=2, response_format={"type": "text"}, **neutral)

    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("words", [CONTEXT, 100_000])
def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(
    served: Served, words: int
) -> None:
    refused = served.chat("sail " * words)

    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert f"context is {CONTEXT} tokens" in error["message"]


def test_prompts_are_counted_by_the_models_own_tokenizer(served: Served) -> None:
    turns = [{"role": "user", "content": "Hello"}]

    counted = served.post("/v1/messages/count_tokens", model="talker", messages=turns)

    assert counted.json()["input_tokens"] == served.told["chat"]["Hello"]["prompt"]


def test_a_conversation_that_the_template_does_not_take_is_refused_in_its_words(
    served: Served,
) -> None:
    turns = [{"role": "assistant", "content": "Hi"}]

    refused = served.post("/v1/chat/completions", model="talker", messages=turns)

    assert refused.status_code == 400
    assert "it begins with the user" in refused.json()["error"]["message"]


@pytest.mark.parametrize("model", ["pickle", "code"])
def test_pickles_and_models_with_code_of_their_own_are_not_loaded(
    served: Served, model: str
) -> None:
    image = base64.b64encode(PHOTOS[0].read_bytes()).decode()

    refused = served.post("/v2/classify", images=[{"image": image}], model=model)

    assert refused.status_code == 503
    assert "could not be loaded" in refused.json()["detail"]
    assert f"{served.folder / model} cannot be read by transformers" in served.log.read_text()
    assert not (served.folder / model / "ran").exists()
