"""`galley batches`: many requests in one file, answered in the background."""

import time
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import ExitCode, JsonOption, err, fail, make_table, out, print_json, say
from galley.client import Client
from galley.schemas.batches import BatchReply

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Have many requests answered from a file; list and cancel such batches.",
)

ENDED = {"completed", "failed", "expired", "cancelled"}
LOOK_S = 0.5


@app.command()
def run(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, help="JSONL, a request per line."
        ),
    ],
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have the requests of a file answered, and write the answers beside it.

    galley batches run questions.jsonl     makes questions.output.jsonl, and questions.errors.jsonl
    of those that failed. Ctrl-C leaves it running: `galley batches ls` shows it.
    """
    endpoint = _endpoint(file)
    with connected(server, key) as client:
        made = client.create_batch(client.upload_file(file).id, endpoint)
        try:
            batch = _watched(client, made)
        except KeyboardInterrupt:
            say(f"{made.id} goes on; stop it with: galley batches cancel {made.id}")
            raise typer.Exit(ExitCode.FAILED) from None
        written = _written(client, batch, file)
    if as_json:
        print_json(batch.json_object() | {"written": [str(path) for path in written]})
    _tell(batch, written)


@app.command("ls")
def list_batches(
    limit: Annotated[int, typer.Option(min=1, max=100, help="So many at most.")] = 20,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List your batches, the latest first."""
    with connected(server, key) as client:
        found = client.batches(limit)
    if as_json:
        print_json([batch.json_object() for batch in found])
        return
    table = make_table("id", "status", "endpoint", "done", "failed", "of")
    for batch in found:
        counts = batch.request_counts
        numbers = (counts.completed, counts.failed, counts.total)
        table.add_row(batch.id, batch.status, batch.endpoint, *map(str, numbers))
    out.print(table)


@app.command()
def cancel(
    batch_id: Annotated[str, typer.Argument(metavar="ID")],
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a batch; what is done stays."""
    with connected(server, key) as client:
        batch = client.cancel_batch(batch_id)
    if as_json:
        print_json(batch.json_object())
    else:
        out.print(f"{batch.id} is {batch.status}.")


def _endpoint(file: Path) -> str:
    """Say what the first line asks; the server holds the others to it."""
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        found: Any = orjson.loads(first)["url"]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, str):
        fail(
            f"{file} does not begin with a request. Each line is one, such as"
            ' {"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {...}}',
            ExitCode.USAGE,
        )
    return found


def _watched(client: Client, batch: BatchReply) -> BatchReply:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True) as progress:
        task = progress.add_task(batch.status, total=None)
        while batch.status not in ENDED:
            time.sleep(LOOK_S)
            batch = client.batch(batch.id)
            counts = batch.request_counts
            progress.update(
                task,
                description=batch.status,
                completed=counts.completed + counts.failed,
                total=counts.total or None,
            )
    return batch


def _written(client: Client, batch: BatchReply, file: Path) -> list[Path]:
    """Download what came of a batch; what an earlier one left under these names is gone."""
    written: list[Path] = []
    for what, file_id in (("output", batch.output_file_id), ("errors", batch.error_file_id)):
        path = file.with_name(f"{file.stem}.{what}.jsonl")
        path.unlink(missing_ok=True)
        if file_id is not None:
            path.write_bytes(client.file_content(file_id))
            written.append(path)
    return written


def _tell(batch: BatchReply, written: list[Path]) -> None:
    counts = batch.request_counts
    say(f"{batch.id} is {batch.status}: {counts.completed} of {counts.total} answered.")
    for path in written:
        say(f"  {path}")
    if batch.status != "completed":
        faults = batch.errors.data if batch.errors else []
        told = [f"line {f.line}: {f.message}" if f.line else f.message for f in faults[:10]]
        fail(" ".join(told) or f"The batch is {batch.status}.")
