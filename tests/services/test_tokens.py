"""Access tokens, and the secret that signs them."""

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from joserfc.jwk import OctKey
from pydantic import SecretStr

from galley.core.errors import AuthenticationError
from galley.core.settings import SettingsError
from galley.db.tables import new_id, utc_now
from galley.services.tokens import Tokens, signing_secret
from tests.tokens import claims, forgeries, payload_of, sign

SECRET = bytes(range(32))
LIFETIME = timedelta(minutes=15)
NOW = utc_now()  # what follows is of this moment, whenever the tests come to run
# These are signed as they should be, and what is wrong with them only the database knows.
WELL_SIGNED = {"subject is sql", "login is sql", "login of another", "subject of another"}
FORGERIES = {n: t for n, t in forgeries(SECRET, claims()).items() if n not in WELL_SIGNED}


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(SECRET, LIFETIME)


def test_a_token_says_whose_it_is_and_how_long_it_is_good(tokens: Tokens) -> None:
    user_id, family, now = new_id(), new_id(), utc_now()

    found = tokens.verify(tokens.make(user_id=user_id, family=family, now=now), now=now)

    assert (found.user_id, found.family) == (user_id, family)
    assert found.issued_at == now.timestamp()
    assert found.expires_at == (now + LIFETIME).timestamp()


def test_a_token_says_nothing_of_tiers_and_scopes(tokens: Tokens) -> None:
    token = tokens.make(user_id=new_id(), family=new_id(), now=utc_now())

    assert set(payload_of(token)) == {"iss", "aud", "sub", "sid", "jti", "iat", "exp"}


def test_a_token_is_good_until_its_end_and_ten_seconds_of_clocks_apart(tokens: Tokens) -> None:
    now = utc_now()
    token = tokens.make(user_id=new_id(), family=new_id(), now=now)

    assert tokens.verify(token, now=now + LIFETIME + timedelta(seconds=8))
    assert tokens.verify(token, now=now - timedelta(seconds=8))
    with pytest.raises(AuthenticationError) as refusal:
        tokens.verify(token, now=now + LIFETIME + timedelta(seconds=11))
    assert refusal.value.code == "token_expired"
    with pytest.raises(AuthenticationError):
        tokens.verify(token, now=now - timedelta(seconds=12))


def test_the_good_token_that_the_forgeries_are_made_of_is_good(tokens: Tokens) -> None:
    assert tokens.verify(sign(claims(), OctKey.import_key(SECRET)), now=utc_now())


@pytest.mark.parametrize("what", FORGERIES)
def test_a_token_that_is_not_ours_to_the_letter_is_refused(tokens: Tokens, what: str) -> None:
    token = FORGERIES[what]

    with pytest.raises(AuthenticationError) as refusal:
        tokens.verify(token, now=NOW)

    assert refusal.value.code == ("token_expired" if what == "expired" else "invalid_token")


def test_a_secret_is_made_once_and_kept_from_others(tmp_path: Path) -> None:
    folder = tmp_path / "data"

    made, again = signing_secret(None, folder), signing_secret(None, folder)

    assert made == again
    assert len(made) == 32
    assert stat.S_IMODE((folder / "jwt_secret").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["jwt_secret"]


def test_servers_that_start_together_on_one_folder_have_one_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as servers:
        for number in range(400):
            folder = tmp_path / str(number)
            starts = [servers.submit(signing_secret, None, folder) for _ in range(4)]

            assert len({start.result() for start in starts}) == 1
            assert [path.name for path in folder.iterdir()] == ["jwt_secret"]


def test_no_two_servers_make_the_same_secret(tmp_path: Path) -> None:
    assert signing_secret(None, tmp_path / "one") != signing_secret(None, tmp_path / "two")


def test_a_secret_that_is_set_is_used_and_not_written_down(tmp_path: Path) -> None:
    given = SecretStr("0123456789abcdef0123456789abcdef")

    assert signing_secret(given, tmp_path) == b"0123456789abcdef0123456789abcdef"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "weak",
    [
        "",
        "secret",
        "0123456789abcdef0123456789abcde",
        "a" * 64,
        "abcabcabc" * 10,
        "a-string-secret-at-least-256-bits-long",
        "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    ],
)
def test_a_weak_or_well_known_secret_is_refused_with_the_cure(tmp_path: Path, weak: str) -> None:
    with pytest.raises(SettingsError, match="openssl rand -hex 32"):
        signing_secret(SecretStr(weak), tmp_path)


def test_a_secret_file_that_was_cut_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "jwt_secret").write_bytes(b"short")

    with pytest.raises(SettingsError, match="jwt_secret"):
        signing_secret(None, tmp_path)
