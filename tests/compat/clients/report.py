"""What every client is asked, and how its script tells what came of it.

The scripts run in an environment of their own, where Galley is not: they know a server by what
`galley connect` says of it alone. Each prints one JSON object: what came, by the aspect's name.
"""

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHAT, EMBEDDINGS = "galley/chat", "galley/embeddings"
QUESTION = "What is FastAPI?"
WEATHER = "What is the weather in Paris?"
CAT = Path(__file__).parents[2] / "data" / "photos" / "cat.jpg"
ANIMAL = "What animal is in this picture?"
TEXTS = ["a cat sits on the mat", "a kitten is on a rug", "stock markets fell"]
CITY_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def compared(vectors: list[list[float]]) -> dict[str, Any]:
    """Say how long the vectors of TEXTS are, and how near to the first the others."""
    first, *others = vectors
    near = [sum(a * b for a, b in zip(first, other, strict=True)) for other in others]
    return {"dimensions": len(first), "near": near[0], "far": near[1]}


def refused(error: Exception, message: str | None = None) -> dict[str, Any]:
    """Say what the client raised."""
    return {"kind": type(error).__name__, "message": message or str(error)}


def report(**aspects: Callable[[], Any]) -> None:
    """Try each aspect and print what came; one that fails takes no other with it."""
    told: dict[str, Any] = {}
    for name, ask in aspects.items():
        try:
            told[name] = ask()
        except Exception:
            told[name] = {"failed": traceback.format_exc()}
    json.dump(told, sys.stdout)
