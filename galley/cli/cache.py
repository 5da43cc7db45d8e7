"""`galley cache`: how well answers are found again."""

import asyncio
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from galley.cli.configuration import DataDirOption, read_settings
from galley.cli.console import ExitCode, JsonOption, err, fail, make_table, out, print_json
from galley.cli.downloads import fetch_one
from galley.core.catalogue import EMBEDDED_MODELS
from galley.core.settings import Settings
from galley.engines.base import Embedder
from galley.runtime.engines import engine_opener
from galley.services.cache_eval import (
    THRESHOLDS,
    Judged,
    Pair,
    PairError,
    Rates,
    judge,
    rates,
    read_pairs,
)
from galley.services.caching import THRESHOLD

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="See how well answers are found again."
)
_MODEL = "all-minilm-l6-v2"


@app.callback()
def _root() -> None:
    pass


@app.command("eval")
def evaluate(
    file: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, readable=True, help="Pairs, one JSON a line."),
    ],
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the semantic cache on question pairs of yours: hits, and false hits.

    A line is {"a": "...", "b": "...", "same": true}, with a "kind" if you like. Runs here,
    with the embedded model; no server is asked.
    """
    pairs = _read(file)
    settings = read_settings(data_dir=data_dir)
    fetch_one(_MODEL, EMBEDDED_MODELS[_MODEL], settings.models_dir)
    judged = asyncio.run(_judge(pairs, settings))
    if as_json:
        print_json(_report(judged))
    else:
        _show(judged)


def _read(file: Path) -> list[Pair]:
    try:
        with file.open(encoding="utf-8") as lines:
            pairs = list(read_pairs(lines))
    except (PairError, UnicodeDecodeError) as error:
        fail(f"{file}: {error}", ExitCode.USAGE)
    if not pairs:
        fail(f"{file} has no pairs.", ExitCode.USAGE)
    return pairs


async def _judge(pairs: list[Pair], settings: Settings) -> list[Judged]:
    columns = ("Pairs", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    engine = await engine_opener(settings)(_MODEL, EMBEDDED_MODELS[_MODEL])
    embedder = cast("Embedder", engine)
    try:
        with Progress(*columns, console=err, transient=True) as progress:
            task = progress.add_task("pairs", total=len(pairs))
            return await judge(pairs, embedder, lambda done: progress.update(task, completed=done))
    finally:
        await embedder.aclose()


def _kinds(judged: list[Judged]) -> dict[str, list[Judged]]:
    found: dict[str, list[Judged]] = {}
    for each in sorted(judged, key=lambda each: not each.pair.same):
        kind = each.pair.kind or ("paraphrase" if each.pair.same else "other")
        found.setdefault(kind, []).append(each)
    return found


def _report(judged: list[Judged]) -> dict[str, Any]:
    return {
        "threshold": THRESHOLD,
        **_shares(rates(judged)),
        "kinds": {kind: _shares(rates(some)) for kind, some in _kinds(judged).items()},
        "thresholds": [
            {
                "threshold": threshold,
                **_shares(rates(judged, threshold)),
                "by_similarity_alone": _shares(rates(judged, threshold, words=False)),
            }
            for threshold in THRESHOLDS
        ],
        "wrong_pairs": [each.pair.model_dump() for each in judged if _is_false(each)],
    }


def _shares(found: Rates) -> dict[str, Any]:
    return {
        "paraphrases": found.paraphrases,
        "hits": found.hits,
        "hit_rate": round(found.hit_rate, 4),
        "others": found.others,
        "false_hits": found.false_hits,
        "false_hit_rate": round(found.false_hit_rate, 4),
    }


def _is_false(each: Judged) -> bool:
    return each.hit() and not each.pair.same


def _show(judged: list[Judged]) -> None:
    found = rates(judged)
    out.print(
        f"Of {found.paraphrases} paraphrases {found.hits} are hits ({found.hit_rate:.1%}), "
        f"of {found.others} others {found.false_hits} ({found.false_hit_rate:.1%}), "
        f"at the threshold {THRESHOLD}.\n"
    )
    out.print(_by_kind(judged), "")
    out.print(_by_threshold(judged))
    for each in filter(_is_false, judged):
        out.print(f"\n[red]False hit:[/] {escape(each.pair.a)} | {escape(each.pair.b)}")


def _by_kind(judged: list[Judged]) -> Table:
    table = make_table("kind", "pairs", "hits", "")
    for kind, some in _kinds(judged).items():
        hits = sum(each.hit() for each in some)
        table.add_row(escape(kind), str(len(some)), str(hits), f"{hits / len(some):.1%}")
    return table


def _by_threshold(judged: list[Judged]) -> Table:
    table = make_table("threshold", "hits", "false hits", "hits by similarity alone", "false hits")
    for threshold in THRESHOLDS:
        cells = [f"{threshold:.2f}"]
        for words in (True, False):
            found = rates(judged, threshold, words=words)
            cells += [f"{found.hit_rate:.1%}", f"{found.false_hit_rate:.1%}"]
        table.add_row(*cells)
    return table
