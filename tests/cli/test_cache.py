import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Galley

PAIRS: list[dict[str, Any]] = [
    {"a": "How do I reset a router?", "b": "What's the way to reset a router?", "same": True},
    {"a": "How do I reset a router?", "b": "My router is stuck. Help!", "same": True},
    {"a": "How do I sell [b]ships[/]?", "b": "How do I buy ships?", "same": False, "kind": "verb"},
    {"a": "Is it 5 km?", "b": "Is it 6 km?", "same": False, "kind": "number"},
    {"a": "Is it 5 km?", "b": "Is it five kilometres?", "same": False, "kind": "mistake"},
]


@pytest.fixture
def pairs(tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of PAIRS, and the model in its place."""
    monkeypatch.setenv("GALLEY_MODELS_DIR", str(models_dir))
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, PAIRS)))
    return path


def test_hits_and_false_hits_are_told_by_kind_and_by_threshold(
    data_dir: Path, galley: Galley, pairs: Path
) -> None:
    shown = galley("cache", "eval", pairs)

    assert shown.exit_code == 0, shown.stderr
    assert "Of 2 paraphrases 1 are hits (50.0%), of 3 others 1 (33.3%)" in shown.stdout
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["paraphrase", "2", "1", "50.0%"] in rows
    assert ["number", "1", "0", "0.0%"] in rows
    assert next(row[0] for row in rows if row and row[0].startswith("0.")) == "0.70"
    assert "False hit: Is it 5 km? | Is it five kilometres?" in shown.stdout


def test_json_has_the_same(data_dir: Path, galley: Galley, pairs: Path) -> None:
    shown = galley("cache", "eval", pairs, "--json")

    told = json.loads(shown.stdout)
    assert (told["paraphrases"], told["hits"], told["hit_rate"]) == (2, 1, 0.5)
    assert (told["others"], told["false_hits"], told["false_hit_rate"]) == (3, 1, 0.3333)
    assert list(told["kinds"]) == ["paraphrase", "verb", "number", "mistake"]
    assert told["thresholds"][0]["by_similarity_alone"]["hits"] >= 1
    assert [false["kind"] for false in told["wrong_pairs"]] == ["mistake"]


def test_a_line_that_is_no_pair_is_wrong_usage(data_dir: Path, galley: Galley, pairs: Path) -> None:
    pairs.write_text('{"a": "one"}')

    shown = galley("cache", "eval", pairs)

    assert shown.exit_code == 2
    assert "line 1: b: Field required" in shown.stderr


def test_a_file_without_pairs_is_wrong_usage(data_dir: Path, galley: Galley, pairs: Path) -> None:
    pairs.write_text("\n")

    shown = galley("cache", "eval", pairs)

    assert shown.exit_code == 2
    assert "has no pairs" in shown.stderr
