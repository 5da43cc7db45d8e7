"""`galley jobs`: what goes on in the background."""

import json
import time
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import ExitCode, JsonOption, err, fail, make_table, out, print_json, say
from galley.client import Client
from galley.schemas.jobs import FINISHED, JobKind, JobStatus

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="List, watch and cancel what goes on in the background.",
)

LOOK_S = 0.5

Id = Annotated[str, typer.Argument(metavar="ID", help="As POST /v1/process and `ls` show it.")]


@app.command("ls")
def list_jobs(
    status: Annotated[JobStatus | None, typer.Option(help="Those in this state alone.")] = None,
    task: Annotated[JobKind | None, typer.Option(help="Those of this kind alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many at most.")] = 20,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List your jobs, the latest first."""
    wanted = {"status": status, "task": task, "limit": limit}
    query = urlencode({name: value for name, value in wanted.items() if value is not None})
    with connected(server, key) as client:
        found = json.loads(client.request("GET", f"/v1/jobs?{query}"))["data"]
    if as_json:
        print_json(found)
        return
    table = make_table("id", "task", "status", "done", "made", "says")
    for job in found:
        made = job["created_at"][:19].replace("T", " ")
        says = (job["error"] or job["progress"])["message"] or ""
        table.add_row(job["id"], job["task"], job["status"], _done(job), made, escape(says))
    out.print(table)


@app.command()
def watch(
    job_id: Id, server: ServerOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Show how far a job is until it has ended, and what came of it.

    Ctrl-C leaves the job running. A job that failed or was cancelled ends with status 1.
    """
    with connected(server, key) as client:
        try:
            job = _watched(client, job_id)
        except KeyboardInterrupt:
            say(f"{job_id} goes on; stop it with: galley jobs cancel {job_id}")
            raise typer.Exit(ExitCode.FAILED) from None
    if as_json or job["status"] == "succeeded":
        print_json(job if as_json else job["result"])
    if job["status"] != "succeeded":
        why = job["error"]["message"] if job["error"] else f"The job was {job['status']}."
        fail(why)


@app.command()
def cancel(
    job_id: Id, server: ServerOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Stop a job that waits or runs; one that has ended is left as it is."""
    with connected(server, key) as client:
        job = _look(client, job_id)
        if job["status"] not in FINISHED:
            job = json.loads(client.request("DELETE", _path(job_id)))
    if as_json:
        print_json(job)
    else:
        out.print(f"{job['id']} is {job['status']}.")


def _path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _look(client: Client, job_id: str) -> dict[str, Any]:
    return json.loads(client.request("GET", _path(job_id)))


def _done(job: dict[str, Any]) -> str:
    progress = job["progress"]
    return f"{progress['done']} of {progress['total']}" if progress["total"] is not None else ""


def _watched(client: Client, job_id: str) -> dict[str, Any]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as progress:
        shown = progress.add_task("", total=None)
        while (job := _look(client, job_id))["status"] not in FINISHED:
            said = job["progress"]
            words = f"{job['task']} {job['status']} {said['message'] or ''}"
            progress.update(
                shown, description=escape(words), completed=said["done"], total=said["total"]
            )
            time.sleep(LOOK_S)
    return job
