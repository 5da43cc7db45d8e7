"""What was found: measured in turns, told as ratios, kept as JSON."""

import json
import os
import platform
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).with_name("results")

T = TypeVar("T")
Run = Callable[[], Awaitable[float]]
Turns = Mapping[str, Sequence[float]]


async def take_turns(
    runs: Mapping[str, Callable[[], Awaitable[T]]], rounds: int
) -> dict[str, list[T]]:
    """Run all in turn, `rounds` times after one unmeasured turn; what each returned, by name."""
    found: dict[str, list[T]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        # Every other turn goes backwards, so that nobody always comes after the same one.
        for name in list(runs)[:: -1 if turn % 2 else 1]:
            value = await runs[name]()
            if turn:
                found[name].append(value)
    return found


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table. `value` is what the target is about; `ours` and `base` are medians."""

    what: str
    ours: float
    unit: str
    value: float
    target: str
    met: bool | None
    against: str = ""
    base: float | None = None


def faster(
    what: str, turns: Turns, unit: str, *, than: str, at_least: float | None = None
) -> Finding:
    """Compare rates: the median of the turns' ratios of `galley` to `than`."""
    pairs = zip(turns["galley"], turns[than], strict=True)
    ratio = statistics.median(ours / base for ours, base in pairs)
    return Finding(
        what,
        statistics.median(turns["galley"]),
        unit,
        ratio,
        "-" if at_least is None else f">= {at_least:g} x",
        None if at_least is None else ratio >= at_least,
        than,
        statistics.median(turns[than]),
    )


def added(what: str, turns: Turns, *, to: str, at_most_ms: float) -> Finding:
    """Compare times in seconds: what `galley` takes longer than `to`, by their medians."""
    ours, base = (1000 * statistics.median(turns[name]) for name in ("galley", to))
    difference = ours - base
    return Finding(
        what, ours, "ms", difference, f"<= +{at_most_ms:g} ms", difference <= at_most_ms, to, base
    )


def below(what: str, values: Sequence[float], unit: str, limit: float | None = None) -> Finding:
    """Hold the median of `values` to a limit."""
    value = statistics.median(values)
    target = "-" if limit is None else f"<= {limit:g} {unit}"
    return Finding(what, value, unit, value, target, None if limit is None else value <= limit)


def above(what: str, values: Sequence[float], unit: str, limit: float) -> Finding:
    """Hold the median of `values` to a lower limit."""
    value = statistics.median(values)
    return Finding(what, value, unit, value, f">= {limit:g} {unit}", value >= limit)


def errors(what: str, counts: Mapping[str, int]) -> list[Finding]:
    """Say how many answers of each were wrong; `galley` may have none."""
    ours = counts["galley"]
    found = [Finding(what, ours, "errors", ours, "0 errors", ours == 0)]
    for name, count in counts.items():
        if name != "galley":
            found.append(Finding(what, ours, "errors", ours, "-", None, name, count))
    return found


def show(findings: Sequence[Finding]) -> None:
    """Print one table."""
    table = Table("", "Galley", "compared with", "", "result", "target", "met", box=None)
    for column in (1, 3, 4, 5):
        table.columns[column].justify = "right"
    for row in findings:
        base = "" if row.base is None else f"{row.base:.4g} {row.unit}"
        result = ""
        if row.base is not None and row.unit != "errors":
            result = f"+{row.value:.3g} ms" if "+" in row.target else f"{row.value:.2f} x"
        met = "" if row.met is None else "[green]yes[/]" if row.met else "[red]no[/]"
        table.add_row(
            row.what, f"{row.ours:.4g} {row.unit}", row.against, base, result, row.target, met
        )
    Console(width=None if os.isatty(1) else 140).print(table)


def keep(findings: Sequence[Finding], name: str) -> Path:
    """Write the findings as JSON, and the machine they were found on."""
    now = datetime.now(UTC)
    packages = ("galley", "onnxruntime", "uvicorn", "xllamacpp")
    run = {
        "at": now.isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "versions": {package: version(package) for package in packages},
        },
        "findings": [asdict(finding) for finding in findings],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}-{name}.json"
    path.write_text(json.dumps(run, indent=2) + "\n")
    return path
