"""Where the server is and how to get in: arguments, the environment, then `client.toml`.

The server writes `client.toml` into its data directory at its first start, so that on the same
machine everything just works.
"""

import json
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import platformdirs

from galley import __version__

DEFAULT_URL = "http://127.0.0.1:8000"
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Profile:
    """A server and a key for it; `kept_in` names the file that the key was found in."""

    base_url: str
    api_key: str | None = None
    kept_in: Path | None = field(default=None, compare=False)

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        return urlsplit(self.base_url).hostname in _LOOPBACK


def find_profile(base_url: str | None = None, api_key: str | None = None) -> Profile:
    """Fill in what was not given.

    A key in `client.toml` belongs to the server named beside it and is sent to no other.

    Raises:
        ValueError: the URL or the key cannot be one; the message says why.
    """
    kept_in = None
    kept = load_profile(path := profile_path())
    url = base_url or os.environ.get("GALLEY_BASE_URL")
    url = _checked(url or (kept.base_url if kept else DEFAULT_URL))
    key = (api_key or os.environ.get("GALLEY_API_KEY") or "").strip()
    if not key and kept and _same_server(url, kept.base_url):
        key, kept_in = kept.api_key or "", path
    if not key.isascii() or not key.isprintable():
        raise ValueError("the API key holds characters that no key has; copy it again.")
    return Profile(url, key or None, kept_in)


def profile_path() -> Path:
    """Name the file that the server leaves for its clients."""
    if given := os.environ.get("GALLEY_DATA_DIR"):
        return Path(given).expanduser() / "client.toml"
    return platformdirs.user_data_path("galley", appauthor=False) / "client.toml"


def load_profile(path: Path) -> Profile | None:
    """Read `path`; None when it is not there or not ours to read."""
    try:
        found = tomllib.loads(path.read_text())
        return Profile(str(found["base_url"]), found.get("api_key"))
    except (OSError, ValueError, KeyError):
        return None


def save_profile(path: Path, profile: Profile) -> None:
    """Write `path` so that only its owner can read it, whole or not at all."""
    lines = [f"base_url = {json.dumps(profile.base_url)}"]
    if profile.api_key:
        lines.append(f"api_key = {json.dumps(profile.api_key)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".toml.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
    draft.replace(path)


def _checked(url: str) -> str:
    """The server's root; OpenAI's clients are given the same address with `/v1`."""
    root = url.strip().rstrip("/").removesuffix("/v1")
    try:
        found = httpx2.URL(root)
    except httpx2.InvalidURL as error:
        raise ValueError(f"{url!r} is not a server's address: {error}.") from error
    if found.scheme not in {"http", "https"} or not found.host:
        raise ValueError(f"{url!r} is not a server's address, as http://127.0.0.1:8000 is one.")
    return root


def _same_server(one: str, other: str) -> bool:
    a, b = urlsplit(one), urlsplit(other)
    same_host = a.hostname == b.hostname or {a.hostname, b.hostname} <= _LOOPBACK
    return same_host and (a.scheme, a.port) == (b.scheme, b.port)


def http_options(profile: Profile, timeout_s: float) -> dict[str, Any]:
    """Say how both clients set up their connections."""
    headers = {"user-agent": f"galley/{__version__}"}
    if profile.api_key:
        headers["authorization"] = f"Bearer {profile.api_key}"
    return {
        "base_url": profile.base_url,
        "headers": headers,
        "timeout": httpx2.Timeout(timeout_s, connect=min(5.0, timeout_s)),
        # A proxy cannot reach a server on this machine.
        "trust_env": not profile.is_local,
    }
