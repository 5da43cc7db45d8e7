"""`galley prove`: see for yourself that the server keeps its promises."""

import json
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Annotated
from uuid import uuid4

import typer

from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import JsonOption, err, fail, make_table, out, print_json
from galley.client import APIError, Client, RateLimitError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="See that the server keeps its promises."
)


@app.callback()
def _root() -> None:
    pass


@app.command()
def limits(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Requests in 60 seconds.")] = 50,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Programs that ask.")] = 4,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Requests at once in each.")] = 16,
    server: ServerOption = None,
    other: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="URL", help="Another server that shares the limit."),
    ] = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let several processes run against one limit at once, and count who was let in.

    Adds a user with that limit for it, and disables them afterwards; needs an admin's key.
    """
    with connected(server, key) as client, _somebody(client, limit) as theirs:
        urls = [client.profile.base_url, *(other or ())]
        asks = [(urls[n % len(urls)], theirs, threads, limit) for n in range(processes)]
        with (
            err.status(f"{processes} processes, {threads} requests at once in each ..."),
            ProcessPoolExecutor(processes, get_context("spawn")) as pool,
        ):
            counts = [Counter(found) for found in pool.map(_ask, asks)]
    total = sum(counts, Counter[str]())
    if as_json:
        print_json({"limit": limit, **total})
    else:
        table = make_table("process", "server", "admitted", "refused")
        for number, (ask, count) in enumerate(zip(asks, counts, strict=True), 1):
            table.add_row(str(number), ask[0], str(count["admitted"]), str(count["refused"]))
        out.print(table)
    if total["failed"]:
        fail(f"{total['failed']} requests failed; the server's log says why.")
    if total["admitted"] != limit:
        fail(f"{total['admitted']} were admitted, and the limit is {limit}.")
    if not as_json:
        out.print(f"[green]admitted = limit = {limit}[/], {total['refused']} refused")


@contextmanager
def _somebody(client: Client, limit: int) -> Generator[str]:
    """Yield the key of a user who is there for the block."""
    name = f"prove-{uuid4().hex[:12]}"
    body = {"email": f"{name}@localhost", "name": "galley prove", "tier": "enterprise"}
    body |= {"limits": {"requests_per_minute": limit}}
    user = json.loads(client.request("POST", "/v1/admin/users", body))
    path = f"/v1/admin/users/{user['id']}"
    try:
        yield json.loads(client.request("POST", f"{path}/keys", {"name": name}))["key"]
    finally:
        client.request("DELETE", path)


def _ask(asked: tuple[str, str, int, int]) -> dict[str, int]:
    """Ask until it is refused, on every thread; in a process of its own."""
    url, key, threads, most = asked
    with ThreadPoolExecutor(threads) as pool:
        tasks = [pool.submit(_ask_until_refused, url, key, most) for _ in range(threads)]
        return dict(sum((task.result() for task in tasks), Counter[str]()))


def _ask_until_refused(url: str, key: str, most: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    with Client(url, key) as client:
        while counts["admitted"] <= most:
            try:
                client.embed("hello")
            except RateLimitError:
                counts["refused"] += 1
                return counts
            except APIError:
                counts["failed"] += 1
                return counts
            counts["admitted"] += 1
    return counts
