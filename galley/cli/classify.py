"""`galley classify`: what is in pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import ExitCode, JsonOption, bar, fail, make_table, out, print_json
from galley.client.calls import ClassifyOptions
from galley.schemas.classify import MAX_IMAGES, ImageResult

app = typer.Typer(add_completion=False)

MAX_BATCH_BYTES = 32_000_000  # well under the server's limit once it is base64


@app.command()
def classify(
    files: Annotated[
        list[Path],
        typer.Argument(exists=True, dir_okay=False, readable=True, help="PNG, JPEG, WebP or GIF."),
    ],
    top_k: Annotated[int, typer.Option(min=1, max=1000, help="Labels per picture.")] = 5,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out labels less likely than this.")
    ] = 0.0,
    model: Annotated[str, typer.Option(help="Which classifier.")] = "galley/classify",
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is in pictures.

    galley classify photo.jpg
    galley classify *.jpg --top-k 1 --json
    """
    if empty := [str(file) for file in files if not file.stat().st_size]:
        fail(f"{empty[0]} is empty: there is nothing to see.", ExitCode.USAGE)
    options: ClassifyOptions = {"model": model, "top_k": top_k, "threshold": threshold}
    results: list[ImageResult] = []
    with connected(server, key) as client:
        for batch in _batches(files):
            results += client.classify_many(batch, **options).results
    if as_json:
        pairs = zip(files, results, strict=True)
        print_json([r.json_object() | {"file": str(file)} for file, r in pairs])
    else:
        out.print(_table(files, results))
    if any(result.error for result in results):
        raise typer.Exit(ExitCode.FAILED)


def _batches(files: list[Path]) -> Iterator[list[Path]]:
    """Cut `files` into requests that the server takes."""
    batch: list[Path] = []
    size = 0
    for file in files:
        bytes_more = file.stat().st_size
        if batch and (len(batch) == MAX_IMAGES or size + bytes_more > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += bytes_more
    yield batch


def _table(files: list[Path], results: list[ImageResult]) -> Table:
    table = make_table("file", "label", "", "confidence")
    table.columns[3].justify = "right"
    for file, result in zip(files, results, strict=True):
        name = escape(str(file))
        if result.error:
            table.add_row(name, f"[red]{escape(result.error)}[/]", "", "")
        for prediction in result.predictions:
            share = prediction.confidence
            table.add_row(name, escape(prediction.label), f"[cyan]{bar(share)}[/]", f"{share:.1%}")
            name = ""
    return table
