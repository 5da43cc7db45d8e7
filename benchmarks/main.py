"""How a benchmark is run from the command line: one table, one JSON file."""

import argparse
from collections.abc import Awaitable, Callable, Mapping

import uvloop

from benchmarks.findings import Finding, keep, show

Benchmark = Callable[[int], Awaitable[list[Finding]]]


def main(benchmarks: Mapping[str, Benchmark], about: str | None) -> None:
    """Run `benchmarks` one after the other."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns per comparison (5)")
    if len(benchmarks) > 1:
        parser.add_argument("--only", choices=benchmarks, nargs="+", default=list(benchmarks))
    given = parser.parse_args()
    chosen: list[str] = getattr(given, "only", list(benchmarks))
    findings: list[Finding] = []
    for name in chosen:
        print(f"Measuring {name} ...", flush=True)
        findings += uvloop.run(_await(benchmarks[name](given.rounds)))
    show(findings)
    print(f"Kept in {keep(findings, '-'.join(chosen))}")


async def _await(awaitable: Awaitable[list[Finding]]) -> list[Finding]:
    return await awaitable
