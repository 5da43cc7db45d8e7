"""The page on the client keeps up with it."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from galley.client import Client, errors
from galley.client.calls import AskOptions, ChatOptions, ClassifyOptions, CompletionOptions
from galley.client.documents import DocumentOptions, ListOptions, SearchOptions

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()


@pytest.mark.parametrize(
    "name", [n for n, _ in inspect.getmembers(Client, inspect.isfunction) if n[0] != "_"]
)
def test_every_method_is_in_the_docs(name: str) -> None:
    assert f"| `{name}(" in PAGE


@pytest.mark.parametrize(
    ("method", "shape"),
    [
        ("chat", ChatOptions),
        ("completions", CompletionOptions),
        ("ask", AskOptions),
        ("classify_many", ClassifyOptions),
        ("retrieve", SearchOptions),
        ("add_document", DocumentOptions),
        ("documents", ListOptions),
    ],
)
def test_every_option_is_in_the_docs(method: str, shape: Any) -> None:
    options = PAGE.partition("| method | options |")[2]
    (row,) = [line for line in options.splitlines() if line.startswith(f"| `{method}`")]

    assert [option for option in inspect.get_annotations(shape) if f"`{option}`" not in row] == []


def test_every_error_is_in_the_docs() -> None:
    names = [n for n, _ in inspect.getmembers(errors, inspect.isclass) if n.endswith("Error")]

    assert [name for name in names if f"`{name}`" not in PAGE] == []
