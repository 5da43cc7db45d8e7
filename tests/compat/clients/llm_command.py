"""`llm`, the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from report import ANIMAL, CAT, QUESTION, WEATHER, report

LLM = str(Path(sys.executable).with_name("llm"))
SHORT = ("-o", "temperature", "0", "-o", "max_tokens", "40")


def llm(*words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [LLM, *words], check=check, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def chat() -> Any:
    done = llm("-m", "galley", "--no-stream", "--usage", *SHORT, QUESTION)
    return {"text": done.stdout, "tokens": int(done.stderr.split(" output")[0].split()[-1])}


def stream() -> Any:
    with subprocess.Popen(
        [LLM, "-m", "galley", *SHORT, QUESTION], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        return [piece.decode() for piece in iter(lambda: process.stdout.read1(), b"")]


def structured() -> Any:
    schema = '{"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}}, '
    schema += '"required": ["city"]}'
    return json.loads(llm("-m", "galley", "--schema", schema, *SHORT, WEATHER).stdout)


def image() -> Any:
    return llm("-m", "galley", "-a", str(CAT), *SHORT, ANIMAL).stdout


def error() -> Any:
    models = Path(os.environ["LLM_USER_PATH"], "extra-openai-models.yaml")
    known = models.read_text()
    other = known.replace("model_id: galley", "model_id: other")
    models.write_text(known + other.replace("galley/chat", "no-such-model"))
    done = llm("-m", "other", QUESTION, check=False)
    return {"kind": f"exit {done.returncode}", "message": done.stderr}


report(chat=chat, stream=stream, structured=structured, image=image, error=error)
