"""`galley classify`: what is in pictures."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from galley.cli.annotations import annotate as draw
from galley.cli.annotations import write_new
from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import ExitCode, bar, err, fail, make_table, out, print_json, say, warn
from galley.client import (
    APIError,
    BadRequestError,
    Client,
    RequestTooLargeError,
    UnprocessableError,
)
from galley.client.calls import ClassifyOptions
from galley.schemas.classify import MAX_IMAGES, IndexedPrediction, Prediction

app = typer.Typer(add_completion=False)

_SUFFIXES = (".gif", ".jpeg", ".jpg", ".png", ".webp")
MAX_BATCH_BYTES = 32_000_000  # well under the server's limit once it is base64


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of one picture; `details` is what else `--json` says of it."""

    file: Path
    predictions: Sequence[Prediction | IndexedPrediction] = ()
    error: str | None = None
    details: dict[str, Any] = field(default_factory=dict[str, Any])

    def json_object(self) -> dict[str, Any]:
        predictions = [prediction.json_object() for prediction in self.predictions]
        row: dict[str, Any] = {"file": str(self.file), "predictions": predictions}
        return row | {"error": self.error} | self.details


@app.command()
def classify(
    files: Annotated[
        list[Path],
        typer.Argument(exists=True, help="PNG, JPEG, WebP or GIF, or folders of them."),
    ],
    v2: Annotated[
        bool, typer.Option("--v2", help="Up to 32 pictures in one request, and show timings.")
    ] = False,
    top_k: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Labels per picture (5). Implies --v2.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out labels less likely than this. Implies --v2."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Which classifier (galley/classify). Implies --v2.")
    ] = None,
    annotate: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", file_okay=False, help="Write copies with the labels drawn on to here."
        ),
    ] = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: one list, an object per picture.")
    ] = False,
) -> None:
    """Say what is in pictures.

    galley classify photo.jpg
    galley classify *.jpg --v2 --annotate labelled
    galley classify holidays --top-k 1 --json
    """
    files = _pictures(files)
    given = {"model": model, "top_k": top_k, "threshold": threshold}
    options = cast("ClassifyOptions", {n: value for n, value in given.items() if value is not None})
    if annotate:
        _make_folder(annotate)
    seen: list[Seen] = []
    try:
        with connected(server, key) as client, _progress(len(files)) as progress:
            answers = (
                _ask_all(client, files, options) if v2 or options else _ask_each(client, files)
            )
            for one in progress.track(answers, len(files), description="Classifying"):
                if annotate:
                    one = _annotated(one, annotate)
                seen.append(one)
    finally:  # when a server says no, what came before has been paid for
        _show(seen, annotate, as_json=as_json)
    if any(one.error for one in seen):
        raise typer.Exit(ExitCode.FAILED)


def _pictures(given: list[Path]) -> list[Path]:
    """The files that are named, and of a folder those that are called like pictures."""
    found: list[Path] = []
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in _SUFFIXES and p.is_file())
        if not inside:
            fail(f"There are no pictures ({', '.join(_SUFFIXES)}) in {path}.", ExitCode.USAGE)
        found += inside
    return found


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"{folder} cannot be made: {error.strerror}.", ExitCode.USAGE)


def _progress(pictures: int) -> Progress:
    """A bar for somebody who watches and has to wait; it leaves nothing behind."""
    columns = (TextColumn("{task.description}"), BarColumn())
    hidden = pictures == 1 or not err.is_terminal
    return Progress(
        *columns, MofNCompleteColumn(), TimeRemainingColumn(),
        console=err, transient=True, disable=hidden,
    )  # fmt: skip


def _ask_each(client: Client, files: list[Path]) -> Iterator[Seen]:
    """Ask version 1, which refuses what is no picture."""
    for file in files:
        if why := _unreadable(file):
            yield Seen(file, error=why)
            continue
        try:
            reply = client.classify(file)
        except (BadRequestError, RequestTooLargeError, UnprocessableError) as error:
            yield _refused(file, error)
        else:
            yield Seen(file, reply.predictions, details={"model": reply.model})


def _ask_all(client: Client, files: list[Path], options: ClassifyOptions) -> Iterator[Seen]:
    """Ask version 2."""
    for batch in _batches(files):
        problems = {file: why for file in batch if (why := _unreadable(file))}
        sent = [file for file in batch if file not in problems]
        answers = iter(_ask(client, sent, options) if sent else ())
        for file in batch:
            yield Seen(file, error=problems[file]) if file in problems else next(answers)


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


def _ask(client: Client, files: list[Path], options: ClassifyOptions) -> list[Seen]:
    """Ask about one batch, in halves where the server takes less at once."""
    try:
        reply = client.classify_many(files, **options)
    except RequestTooLargeError as error:
        if len(files) == 1:
            return [_refused(files[0], error)]
        half = len(files) // 2
        return _ask(client, files[:half], options) + _ask(client, files[half:], options)
    shared = {
        "model": reply.model,
        "request_id": reply.request_id,
        "timings_ms": reply.timings_ms.json_object(),
    }
    return [
        Seen(file, one.predictions, one.error, {"width": one.width, "height": one.height} | shared)
        for file, one in zip(files, reply.results, strict=True)
    ]


def _unreadable(file: Path) -> str | None:
    """Say why there is nothing to send."""
    try:
        with file.open("rb") as opened:
            return None if opened.read(1) else "The file is empty: there is nothing to see."
    except OSError as error:
        return f"The file cannot be read: {error.strerror}."


def _refused(file: Path, error: APIError) -> Seen:
    return Seen(file, error=error.message, details={"request_id": error.request_id})


def _annotated(seen: Seen, folder: Path) -> Seen:
    """Write the picture's copy, unless it is none; never over a file that is there."""
    if seen.error:
        return seen
    labels = [(prediction.label, prediction.confidence) for prediction in seen.predictions]
    try:
        copy = draw(seen.file, labels)
    except Exception as error:  # Pillow raises anything on bad bytes; the others go on
        return replace(seen, error=f"No copy: the picture cannot be drawn on ({error}).")
    try:
        path = write_new(folder, seen.file.stem, copy)
    except OSError as error:
        fail(f"The copy of {seen.file} cannot be written to {folder}: {error.strerror}.")
    if path.stem != seen.file.stem:
        taken = folder / f"{seen.file.stem}{copy.suffix}"
        warn(f"{taken} is there already and was left as it is: wrote {path}.")
    return replace(seen, details=seen.details | {"annotated": str(path)})


def _show(seen: list[Seen], folder: Path | None, *, as_json: bool) -> None:
    if not seen:
        return
    if as_json:
        print_json([one.json_object() for one in seen])
    else:
        out.print(_table(seen))
        if any("timings_ms" in one.details for one in seen):
            out.print()
            out.print(_timings(seen))
    if folder:
        written = sum("annotated" in one.details for one in seen)
        say(f"Wrote {written} labelled {'copy' if written == 1 else 'copies'} to {folder}.")


def _table(seen: list[Seen]) -> Table:
    table = make_table("file", "label", "", "confidence")
    table.columns[1].max_width = 40  # what is wrong with one file does not push the bars away
    table.columns[3].justify = "right"
    for one in seen:
        name = escape(str(one.file))
        if one.error:
            table.add_row(name, f"[red]{escape(one.error)}[/]", "", "")
        elif not one.predictions:
            table.add_row(name, "[dim]no label is likely enough[/]", "", "")
        for prediction in one.predictions:
            share = prediction.confidence
            table.add_row(name, escape(prediction.label), f"[cyan]{bar(share)}[/]", f"{share:.1%}")
            name = ""
    return table


def _timings(seen: list[Seen]) -> Table:
    """Where the time of each request went; of several pictures the longest of each."""
    answered = [one.details for one in seen if "timings_ms" in one.details]
    pictures = Counter(details["request_id"] for details in answered)
    timings = {details["request_id"]: details["timings_ms"] for details in answered}
    parts = ("decode", "queue", "inference", "total")
    table = make_table("request", "pictures", *(f"{part} ms" for part in parts))
    for column in table.columns[1:]:
        column.justify = "right"
    for request_id, spent in timings.items():
        shown = (f"{spent[part]:.1f}" for part in parts)
        table.add_row(escape(request_id), str(pictures[request_id]), *shown)
    return table
