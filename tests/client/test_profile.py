"""Where the client finds its server and key."""

from pathlib import Path

import pytest

from galley.client.profile import Profile, find_profile, load_profile, save_profile


@pytest.fixture(autouse=True)
def client_toml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("GALLEY_BASE_URL", raising=False)
    monkeypatch.delenv("GALLEY_API_KEY", raising=False)
    monkeypatch.setenv("GALLEY_DATA_DIR", str(tmp_path))
    return tmp_path / "client.toml"


def test_arguments_win_over_variables_and_variables_over_the_file(
    client_toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_profile(client_toml, Profile("http://127.0.0.1:1", "gk_file"))
    from_file = find_profile()
    monkeypatch.setenv("GALLEY_BASE_URL", "http://two:2/")
    monkeypatch.setenv("GALLEY_API_KEY", "gk_variable\n")
    from_variables = find_profile()
    from_arguments = find_profile("http://three:3", "gk_argument")

    assert from_file == Profile("http://127.0.0.1:1", "gk_file")
    assert from_variables == Profile("http://two:2", "gk_variable")
    assert from_arguments == Profile("http://three:3", "gk_argument")


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ("http://localhost:8000", "gk_file"),
        ("http://127.0.0.1:8000/", "gk_file"),
        ("http://127.0.0.1:8001", None),
        ("https://127.0.0.1:8000", None),
        ("http://example.com:8000", None),
    ],
)
def test_the_key_of_the_file_is_sent_to_no_other_server(
    client_toml: Path, asked: str, key: str | None
) -> None:
    save_profile(client_toml, Profile("http://127.0.0.1:8000", "gk_file"))

    assert find_profile(asked).api_key == key


def test_without_anything_the_server_is_the_default_one_and_there_is_no_key() -> None:
    assert find_profile() == Profile("http://127.0.0.1:8000", None)


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://x", "/v1", "http://[::1", "http://", "http://a:x"],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a server's address"):
        find_profile(url)


def test_an_address_may_end_as_openai_clients_want_it() -> None:
    assert find_profile("http://127.0.0.1:8000/v1/").base_url == "http://127.0.0.1:8000"


@pytest.mark.parametrize("key", ["gk_ü", "gk_a\nb"])
def test_what_is_no_key_is_refused_before_it_is_sent(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        find_profile(api_key=key)


def test_the_profile_is_for_its_owner_alone_and_replaces_an_older_one(client_toml: Path) -> None:
    client_toml.write_text("base_url = 'old'")
    client_toml.chmod(0o644)

    save_profile(client_toml, Profile("http://127.0.0.1:8000", 'gk_"quoted"'))

    assert client_toml.stat().st_mode & 0o777 == 0o600
    assert load_profile(client_toml) == Profile("http://127.0.0.1:8000", 'gk_"quoted"')


@pytest.mark.parametrize("content", [b"", b"base_url = 1 2", b"\xff", b"api_key = 'x'"])
def test_a_spoilt_profile_is_as_good_as_none(client_toml: Path, content: bytes) -> None:
    client_toml.write_bytes(content)

    assert find_profile() == Profile("http://127.0.0.1:8000", None)
