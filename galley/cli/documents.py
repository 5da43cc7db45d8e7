"""`galley documents`: add, list, search and delete documents."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import ExitCode, JsonOption, err, fail, make_table, out, print_json, say
from galley.client import (
    APIError,
    BadRequestError,
    Client,
    RequestTooLargeError,
    UnprocessableError,
)
from galley.client.documents import ListOptions, SearchOptions
from galley.schemas.documents import MOST_FOUND, DocumentReply

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Add documents, and search what they say."
)

SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm", ".pdf", ".docx")
"""What is taken from a folder."""

_SHOWN = 300  # characters of a passage

CollectionOption = Annotated[
    str | None, typer.Option("--collection", metavar="NAME", help="Name or id of a collection.")
]


@app.command()
def add(
    paths: Annotated[
        list[Path], typer.Argument(exists=True, help="Files, and folders with files in them.")
    ],
    collection: CollectionOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace documents that are named the same.")
    ] = False,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add files of text, Markdown, HTML, PDF and DOCX.

    From folders, files of these kinds are taken, and named by where they are in the folder.
    Without a collection, they go to the one named `default`. A file that cannot be read does not
    stop the others.
    """
    found = list(_files(paths))
    if not found:
        fail(f"There is nothing to add: no {', '.join(SUFFIXES)}.", ExitCode.USAGE)
    added: list[DocumentReply] = []
    failed: list[tuple[str, str]] = []
    with connected(server, key) as client, _progress(hidden=as_json) as progress:
        task = progress.add_task("", total=len(found))
        for path, name in found:
            progress.update(task, description=escape(name))
            try:
                added.append(_add(client, path, name, collection, replace=replace))
            except (BadRequestError, RequestTooLargeError, UnprocessableError, OSError) as error:
                failed.append((name, error.message if isinstance(error, APIError) else str(error)))
            progress.advance(task)
    if as_json:
        print_json(
            {
                "documents": [document.json_object() for document in added],
                "failed": [{"name": name, "error": error} for name, error in failed],
            }
        )
    else:
        _show(added)
        for name, error in failed:
            say(f"{name}: {error}")
    if failed:
        raise typer.Exit(ExitCode.FAILED)


@app.command("ls")
def list_documents(
    collection: CollectionOption = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List your documents, the oldest first."""
    with connected(server, key) as client:
        found = list(_listed(client, collection))
    if as_json:
        print_json([document.json_object() for document in found])
    else:
        _show(found)


@app.command()
def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A question, in plain words.")],
    limit: Annotated[
        int, typer.Option(min=1, max=MOST_FOUND, help="How many passages to show.")
    ] = 5,
    collection: CollectionOption = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the passages that answer a question, by meaning and by words."""
    options: SearchOptions = {"limit": limit}
    if collection is not None:
        options["collection"] = [collection]
    with connected(server, key) as client:
        passages = client.retrieve(query, **options).passages or []
    if as_json:
        print_json([passage.json_object() for passage in passages])
        return
    table = make_table("score", "document", "from", "passage")
    for passage in passages:
        text = " ".join(passage.text.split())
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        table.add_row(
            f"{passage.score:.2f}", escape(passage.document_name), str(passage.start), escape(shown)
        )
    out.print(table)


@app.command("rm")
def remove(
    documents: Annotated[
        list[str], typer.Argument(metavar="DOCUMENT...", help="Ids, or names that only one has.")
    ],
    server: ServerOption = None,
    key: KeyOption = None,
) -> None:
    """Delete documents; they are found no more."""
    with connected(server, key) as client:
        for given in documents:
            client.delete_document(_id_of(client, given))
            say(f"{given} is deleted.")


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Files to add, and what to call them."""
    for path in paths:
        if path.is_file():
            yield path, path.name
            continue
        for file in sorted(path.rglob("*")):
            inside = file.relative_to(path)
            hidden = any(part.startswith(".") for part in inside.parts)
            if file.suffix.lower() in SUFFIXES and file.is_file() and not hidden:
                yield file, inside.as_posix()


def _progress(*, hidden: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=hidden or not err.is_terminal,
    )


def _add(
    client: Client, path: Path, name: str, collection: str | None, *, replace: bool
) -> DocumentReply:
    if replace:
        options: ListOptions = {"name": name, "collection": collection or "default", "limit": 1}
        try:
            known = client.documents(**options).data
        except APIError as error:
            if error.status != 404:  # the default collection is made by its first document
                raise
            known = []
        if known:
            return client.replace_document(known[0].id, path, name=name)
    return client.add_document(path, collection=collection, name=name)


def _listed(client: Client, collection: str | None) -> Iterator[DocumentReply]:
    options: ListOptions = {"limit": 1000}
    if collection is not None:
        options["collection"] = collection
    while True:
        page = client.documents(**options)
        yield from page.data
        if not page.has_more:
            return
        options["after"] = page.data[-1].id


def _id_of(client: Client, given: str) -> str:
    try:
        return str(UUID(given))
    except ValueError:
        found = client.documents(name=given, limit=2).data
    if len(found) != 1:
        how_many = "Several documents are" if found else "No document is"
        fail(f"{how_many} named {given!r}. `galley documents ls` shows ids.")
    return found[0].id


def _show(found: Sequence[DocumentReply]) -> None:
    table = make_table("id", "name", "status", "characters", "passages")
    for document in found:
        status = document.status
        if document.job_id is not None:
            status = f"{status} (job {document.job_id})"
        elif document.error is not None:
            status = f"{status}: {document.error}"
        table.add_row(
            document.id,
            escape(document.name),
            escape(status),
            str(document.characters),
            str(document.passages),
        )
    out.print(table)
