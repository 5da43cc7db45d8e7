"""`galley config`: the settings, and where each comes from."""

import typer
from rich.markup import escape

from galley.cli.configuration import DataDirOption, read_settings
from galley.cli.console import JsonOption, make_table, out, print_json
from galley.core.origins import explain

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Show the settings and where they come from.",
)


@app.command("explain")
def explain_settings(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Print each setting, its value, and where it comes from."""
    rows = explain(read_settings(data_dir=data_dir))
    if as_json:
        print_json([row._asdict() for row in rows])
        return
    table = make_table("setting", "value", "from")
    for row in rows:
        style = "dim" if row.source == "default" else ""
        table.add_row(row.name, escape(row.value), escape(row.source), style=style)
    out.print(table)


@app.command("path")
def show_path(data_dir: DataDirOption = None) -> None:
    """Print where the TOML file is, or would be."""
    typer.echo(read_settings(data_dir=data_dir).config)
