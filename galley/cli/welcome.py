"""What `galley serve` says: where the server is, how to get in, and what to try."""

import asyncio
import ipaddress
import json
import shutil
import sys
import time
from pathlib import Path

import platformdirs
from rich.text import Text

from galley import __version__
from galley.cli.console import out, warn
from galley.client.profile import Profile, load_profile, save_profile
from galley.core.catalogue import EMBEDDED_MODELS
from galley.core.errors import AuthenticationError
from galley.core.settings import Settings
from galley.services.accounts import Accounts
from galley.services.models import Model, Models

BODY = {
    "model": "galley/chat",
    "messages": [{"role": "user", "content": "What is FastAPI?"}],
    "temperature": 0.2,
}


class Welcome:
    """Greets the operator.

    Args:
        port: the one that was taken, where the settings leave it open.
    """

    def __init__(self, settings: Settings, port: int) -> None:
        self._settings = settings
        self._url = address(settings.host, port)
        self._profile = profile_of(settings)
        self._key_opens = True

    async def try_key(self, accounts: Accounts) -> None:
        """Find out whether the key that clients on this machine use still opens."""
        known = load_profile(self._profile)
        if known and known.api_key:
            try:
                await accounts.authenticate(known.api_key)
            except AuthenticationError:
                self._key_opens = False

    def show(self, first_key: str | None) -> None:
        """Print the banner, and leave the way in for the client on this machine.

        Args:
            first_key: the key made at this start; it is not shown again.
        """
        self._leave_profile(first_key)
        _line(f"\nGalley {__version__} is serving.\n", style="bold green")
        self._row("API", self._url)
        self._row("Docs", f"{self._url}/docs")
        self._row("Metrics", f"{self._url}/metrics")
        if first_key:
            self._row("API key", f"{first_key}   (shown once; also kept in {self._profile})")
        elif not self._key_opens:
            self._row("API key", f"kept in {self._profile}, but it no longer opens")
            warn(f"commands on this machine need a new key: {_program()} keys create --local")
        elif self._profile.exists():
            self._row(
                "API key", f"kept in {self._profile}; another: {_program()} keys create --local"
            )
        self._show_examples(first_key)
        self._warn_of_the_world()

    async def follow(self, models: Models) -> None:
        """Say when the models are there, and which could not be loaded."""
        began = time.monotonic()
        self._row("Models", ", ".join(model.name for model in models.all()) + " (loading)")
        while any(m.state == "loading" for m in models.all()):  # noqa: ASYNC110 - for a person
            await asyncio.sleep(0.1)
        for model in models.all():
            if model.state == "failed":
                warn(f"{model.name} is not available: {model.error}")
        loaded = [model for model in models.all() if model.state == "loaded"]
        if loaded:
            _line(
                f"  Ready after {time.monotonic() - began:.1f} s: {_names(loaded)}.\n",
                style="bold green",
            )
        if _chats_with_the_demonstration(loaded):
            warn(
                "the embedded chat model (135M parameters) is a demonstration: quick, small and "
                f"often wrong. For a better one: {_program()} models add --help"
            )

    def _leave_profile(self, first_key: str | None) -> None:
        known = load_profile(self._profile)
        if first_key or (known and known.base_url != self._url):
            key = first_key or (known.api_key if known else None)
            save_profile(self._profile, Profile(self._url, key))

    def _show_examples(self, first_key: str | None) -> None:
        program, python = _program(), sys.executable
        _line("\nTry, in another terminal:\n", style="bold")
        if self._settings.data_dir != platformdirs.user_data_path("galley", appauthor=False):
            _line(f"  export GALLEY_DATA_DIR={self._settings.data_dir}")
        _line(f'  {program} chat "hello"')
        _line(
            f"  curl {self._url}/v1/chat/completions -H 'Content-Type: application/json' "
            f"-H \"Authorization: Bearer {first_key or '$GALLEY_API_KEY'}\" -d '{json.dumps(BODY)}'"
        )
        script = 'from galley.client import Client; print(Client().ask("What is FastAPI?"))'
        _line(f"  {python} -c '{script}'\n")

    def _warn_of_the_world(self) -> None:
        if not _is_loopback(self._settings.host):
            warn(
                f"listening on {self._settings.host} without TLS: keys and answers cross the "
                "network in the clear. Put a proxy with TLS in front before others use it."
            )

    def _row(self, name: str, value: str) -> None:
        out.print(Text.assemble("  ", (f"{name:<9}", "cyan"), value), soft_wrap=True)


def profile_of(settings: Settings) -> Path:
    """Where the server leaves the way in for clients on its machine."""
    return settings.data_dir / "client.toml"


def address(host: str, port: int) -> str:
    """The URL of a server that listens there, as seen from its machine."""
    return f"http://{_reachable(host)}:{port}"


def _line(text: str, style: str = "") -> None:
    out.print(Text(text, style=style), soft_wrap=True)


def _names(models: list[Model]) -> str:
    return ", ".join(
        f"{model.name} ({model.engine.hardware})" if model.engine else model.name
        for model in models
    )


def _chats_with_the_demonstration(loaded: list[Model]) -> bool:
    chat = next((model.name for model in loaded if model.settings.kind == "chat"), None)
    return chat in EMBEDDED_MODELS


def _program() -> str:
    """How the user calls this program from anywhere: `galley`, or its path if not on PATH."""
    own = Path(sys.argv[0])
    on_path = shutil.which("galley")
    if on_path and own.exists() and Path(on_path).samefile(own):
        return "galley"
    return str(own.absolute())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _reachable(host: str) -> str:
    """The address to call for what listens on `host`."""
    if host in {"0.0.0.0", ""}:  # noqa: S104 - compared with, not bound
        return "127.0.0.1"
    if ":" in host:
        return "[::1]" if host == "::" else f"[{host}]"
    return host
