"""`galley embed`: texts as vectors, and how alike they are."""

import math
import sys
from operator import mul
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import ExitCode, JsonOption, fail, make_table, out, print_json

app = typer.Typer(add_completion=False)

Vector = list[float]


@app.command()
def embed(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT...",
            help="Unset: one text per line of standard input.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Which embedding model.")] = "galley/embeddings",
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Keep the first so many, at unit length again.")
    ] = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn texts into vectors, and compare them.

    galley embed "a cat" "a kitten" "a train"     shows how alike they are
    galley embed "a cat" --json                   prints the vector
    """
    wanted = texts or _piped()
    with connected(server, key) as client:
        vectors = client.embed(wanted, model=model, dimensions=dimensions)
    if as_json:
        pairs = zip(wanted, vectors, strict=True)
        print_json([{"text": text, "embedding": vector} for text, vector in pairs])
    else:
        out.print(_vectors(wanted, vectors) if len(wanted) == 1 else _likeness(wanted, vectors))


def _piped() -> list[str]:
    lines = [] if sys.stdin.isatty() else [line.strip() for line in sys.stdin]
    found = [line for line in lines if line]
    if not found:
        fail('There is no text. Give some: galley embed "a cat" "a kitten"', ExitCode.USAGE)
    return found


def _vectors(texts: list[str], vectors: list[Vector]) -> Table:
    table = make_table("text", "floats", "norm", "first")
    for text, vector in zip(texts, vectors, strict=True):
        first = ", ".join(f"{value:.4f}" for value in vector[:5])
        table.add_row(escape(text), str(len(vector)), f"{math.hypot(*vector):.4f}", f"{first}, ...")
    return table


def _likeness(texts: list[str], vectors: list[Vector]) -> Table:
    """Every text against every other: cosine, 1 for the same meaning."""
    table = make_table("", "text", *(str(n) for n in range(1, len(texts) + 1)))
    for number, (text, vector) in enumerate(zip(texts, vectors, strict=True), 1):
        cosines = (sum(map(mul, vector, other)) for other in vectors)
        table.add_row(str(number), escape(text), *(_shaded(cosine) for cosine in cosines))
    return table


def _shaded(cosine: float) -> str:
    style = "green" if cosine > 0.6 else "yellow" if cosine > 0.3 else "dim"
    return f"[{style}]{cosine:.2f}[/]"
