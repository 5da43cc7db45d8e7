"""The house rules that a linter cannot say: sizes, and docs that keep up with the code."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from typer.main import get_command

from galley.cli.app import COMMANDS
from galley.core.catalogue import ModelSettings
from galley.core.errors import GalleyError
from galley.core.issuers import IssuerSettings
from galley.core.settings import CLIENT_VARIABLES, Settings, secret_fields
from galley.main import create_app
from tests.serving import LiveServer, make_settings

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "galley").rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ADDRESS = "http://127.0.0.1:8000"
CURL_FAILS = 'curl() { command curl --fail-with-body --silent --show-error "$@"; }\n'


class Block(NamedTuple):
    """A fenced block of code in a page. `bash` blocks run as they stand, `sh` blocks do not."""

    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def _read(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def _blocks(*languages: str) -> list[Block]:
    fence = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [
        Block(page, text.count("\n", 0, found.start()) + 2, found[1], found[2])
        for page in PAGES
        for text in [page.read_text()]
        for found in fence.finditer(text)
        if found[1] in languages
    ]


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=_relative)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()

    assert text.count("\n") <= 400, "split it by what it does"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name}: name its steps"


def test_error_classes_differ_in_status() -> None:
    kinds = GalleyError.__subclasses__()

    assert len({kind.status for kind in kinds}) == len(kinds)


def test_every_error_class_has_its_status_in_the_docs() -> None:
    page = _read("errors.md")

    missing = [
        kind.status for kind in GalleyError.__subclasses__() if f"| {kind.status} " not in page
    ]

    assert not missing


def test_the_docs_list_exactly_the_error_codes_that_are_used() -> None:
    used = {code for path in SOURCES for code in _codes(ast.parse(path.read_text()))}

    listed = set(re.findall(r"^\| `(\w+)` ", _read("errors.md"), re.MULTILINE))

    assert listed == used


def _codes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "code":
            given = node.value
            either = (given.body, given.orelse) if isinstance(given, ast.IfExp) else (given,)
            for one in either:
                if isinstance(one, ast.Constant) and isinstance(one.value, str):
                    yield one.value


def test_the_docs_list_every_setting_with_its_default() -> None:
    rows = [_row(f"GALLEY_{name.upper()}", field) for name, field in Settings.model_fields.items()]
    for group in (ModelSettings, IssuerSettings):
        rows += [_row(name, field) for name, field in group.model_fields.items()]
    page = _read("configuration.md")

    assert [row for row in rows if row not in page] == []


def _row(name: str, field: FieldInfo) -> str:
    """How the table's row begins; defaults that are worked out are told in words."""
    if isinstance(field.default, str | int | float):
        shown = str(field.default).lower() if isinstance(field.default, bool) else field.default
        return f"| `{name}` | `{shown}` |"
    return f"| `{name}` | "


def test_the_docs_name_no_setting_that_does_not_exist() -> None:
    known = {f"GALLEY_{name.upper()}" for name in Settings.model_fields}
    known |= {f"GALLEY_{name.upper()}_FILE" for name in secret_fields()} | CLIENT_VARIABLES

    for page in PAGES:
        named = {n.partition("__")[0] for n in re.findall(r"GALLEY_[A-Z_]*[A-Z]", page.read_text())}
        assert named <= known, page


def test_the_docs_list_exactly_the_routes_of_the_app(tmp_path: Path) -> None:
    document = create_app(make_settings(tmp_path, tmp_path)).openapi()
    served = {f"{m.upper()} {path}" for path, item in document["paths"].items() for m in item}

    told = set(re.findall(r"^#+ `((?:GET|POST|PUT|PATCH|DELETE) /\S+)`", _read("api.md"), re.M))

    assert told - {"GET /"} == served


@pytest.mark.parametrize("name", COMMANDS)
def test_the_docs_show_every_command_and_option(name: str) -> None:
    command = get_command(import_module(f"galley.cli.{name}").app)
    parts = {
        f"galley {name} {sub}": found for sub, found in getattr(command, "commands", {}).items()
    }
    page = _read("cli.md")

    for title, part in (parts or {f"galley {name}": command}).items():
        _, found, section = page.partition(f"\n## `{title}`\n")
        options = [flag for param in part.params for flag in param.opts if flag.startswith("--")]
        assert found, f"{title} is not in docs/cli.md"
        section = section.partition("\n## ")[0]
        assert [flag for flag in options if f"`{flag}`" not in section] == [], title


def test_the_docs_list_every_metric(live_server: LiveServer) -> None:
    shown = live_server.client.get("/metrics").text
    page = _read("monitoring.md")

    names = re.findall(r"^# TYPE (\w+) (?:counter|gauge|histogram)$", shown, re.MULTILINE)

    assert names
    assert [n for n in names if f"`{n}`" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=_relative)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text())

    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("block", _blocks("json"), ids=str)
def test_json_in_the_docs_is_json(block: Block) -> None:
    orjson.loads(block.code)


@pytest.mark.parametrize("block", _blocks("toml"), ids=str)
def test_settings_in_the_docs_are_valid(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "galley.toml"
    path.write_text(block.code)

    settings = Settings(config=path, bootstrap_key=SecretStr(""))

    for name in tomllib.loads(block.code):
        assert getattr(settings, name)


def _runnable() -> list[Any]:
    """All code of the README and a third of the other pages'; the rest is slow."""
    once = {block.code: block for block in reversed(_blocks("python", "bash"))}
    return [
        pytest.param(
            block, marks=pytest.mark.slow if n % 3 and block.page.name != "README.md" else ()
        )
        for n, block in enumerate(reversed(once.values()))
    ]


@pytest.mark.parametrize("block", _runnable(), ids=str)
def test_code_in_the_docs_runs(block: Block, live_server: LiveServer) -> None:
    code = block.code.replace(ADDRESS, live_server.url)
    binaries = Path(sys.executable).parent
    shell = ["bash", "-euo", "pipefail", "-c", CURL_FAILS + code]
    environment = os.environ | {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "GALLEY_API_KEY": live_server.key,
        "GALLEY_BASE_URL": live_server.url,
        "GALLEY_DATA_DIR": str(live_server.settings.data_dir),
        "GALLEY_MODELS_DIR": str(live_server.settings.models_dir),
    }

    done = subprocess.run(
        shell if block.language == "bash" else [sys.executable, "-c", code],
        cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip(), "it prints nothing to look at"
