"""`galley chat`: one question from the command line or a pipe, or a conversation."""

import sys
from contextlib import closing, suppress
from typing import Annotated, Any

import typer

from galley.cli.connection import KeyOption, ServerOption, connected, in_words
from galley.cli.console import ExitCode, JsonOption, err, fail, out, print_json
from galley.client import APIError, Client
from galley.client.calls import ChatOptions

app = typer.Typer(add_completion=False)

Turn = dict[str, Any]


@app.command()
def chat(
    prompt: Annotated[
        list[str] | None,
        typer.Argument(
            help="The question; unset: standard input, or a conversation.", show_default=False
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Which chat model answers.")] = "galley/chat",
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, in tokens.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0: the likeliest words; higher: bolder.")
    ] = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Talk to a chat model: one question, or a conversation.

    galley chat "What is FastAPI?"      prints the answer as it is made
    cat notes.txt | galley chat         reads the question from a pipe
    galley chat                         starts a conversation
    """
    options: ChatOptions = {"model": model}
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if temperature is not None:
        options["temperature"] = temperature
    turns: list[Turn] = [{"role": "system", "content": system}] if system else []
    question = " ".join(prompt or ()) or _piped()
    with connected(server, key) as client:
        if question is None:
            _converse(client, turns, options)
            return
        turns.append({"role": "user", "content": question})
        if as_json:
            print_json(client.chat(turns, **options).json_object())
        else:
            _answer(client, turns, options, [])


def _piped() -> str | None:
    """The question that comes through a pipe; None at a terminal."""
    if sys.stdin.isatty():
        return None
    if not (text := sys.stdin.read().strip()):
        fail('There is no question. Ask one: galley chat "What is FastAPI?"', ExitCode.USAGE)
    return text


def _converse(client: Client, turns: list[Turn], options: ChatOptions) -> None:
    """Ask and answer until Ctrl-D; Ctrl-C stops an answer, a refused question is forgotten."""
    err.print(f"Talking to {options.get('model')}. Ctrl-D ends the conversation.", style="dim")
    while True:
        try:
            question = out.input("[bold cyan]> [/]").strip()
        except (EOFError, KeyboardInterrupt):
            err.print()
            return
        if not question:
            continue
        turns.append({"role": "user", "content": question})
        pieces: list[str] = []
        try:
            with suppress(KeyboardInterrupt):
                _answer(client, turns, options, pieces)
        except APIError as error:
            turns.pop()
            err.print(in_words(error, client.profile), style="red", markup=False)
        else:
            turns.append({"role": "assistant", "content": "".join(pieces)})


def _answer(client: Client, turns: list[Turn], options: ChatOptions, pieces: list[str]) -> None:
    """Print the answer as it is made; `pieces` gets what was printed, however it ends."""
    with closing(client.chat_stream(turns, **options)) as stream:
        try:
            for piece in stream:
                pieces.append(piece)
                typer.echo(piece, nl=False)
        finally:
            if pieces:
                typer.echo()
