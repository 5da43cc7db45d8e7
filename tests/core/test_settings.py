"""Where settings come from, and what is said of those that cannot be used."""

import os
from pathlib import Path

import pytest

from galley.core.origins import explain, load_settings
from galley.core.settings import Settings, SettingsError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with nothing in it, and no variables of ours."""
    for name in list(os.environ):
        if name.startswith("GALLEY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GALLEY_DATA_DIR", str(tmp_path))
    return tmp_path


def origin(name: str, settings: Settings) -> tuple[str, str]:
    return next((o.value, o.source) for o in explain(settings) if o.name == name)


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "galley.toml").write_text('port = 9000\nhost = "::1"\n')
    monkeypatch.setenv("GALLEY_PORT", "9001")

    settings = load_settings()

    assert origin("port", settings) == ("9001", "GALLEY_PORT")
    assert origin("host", settings) == ("::1", str(home / "galley.toml"))
    assert origin("grace_period", settings) == ("30.0", "default")


def test_arguments_win_over_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALLEY_PORT", "9001")

    assert Settings(port=9002).port == 9002


def test_what_is_not_placed_follows_the_data_directory(home: Path) -> None:
    settings = load_settings()

    assert settings.models_dir == home / "models"
    assert settings.config == home / "galley.toml"
    assert settings.database_url.get_secret_value() == f"sqlite+aiosqlite:///{home}/galley.db"


def test_the_data_directory_follows_the_platform_when_it_is_not_set(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GALLEY_DATA_DIR")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))

    assert load_settings().data_dir.is_relative_to(home)


def test_models_in_the_file_join_the_embedded_ones_and_a_default_comes_first(home: Path) -> None:
    (home / "galley.toml").write_text(
        '[models.big]\nkind = "chat"\nsource = "path:/big.gguf"\ndefault = true\n'
    )

    catalogue = load_settings().catalogue

    assert next(iter(catalogue)) == "big"
    assert set(catalogue) > {"big", "smollm2-135m-instruct", "all-minilm-l6-v2"}


def test_the_embedded_model_stays_the_default_unless_another_says_that_it_is(home: Path) -> None:
    (home / "galley.toml").write_text('[models.big]\nkind = "chat"\nsource = "path:/big.gguf"\n')

    chat = [name for name, model in load_settings().catalogue.items() if model.kind == "chat"]

    assert chat == ["smollm2-135m-instruct", "big"]


@pytest.mark.parametrize("name", ["two words", "galley/chat", "a//b"])
def test_a_name_that_requests_could_not_use_is_an_error(home: Path, name: str) -> None:
    (home / "galley.toml").write_text(f'[models."{name}"]\nkind = "chat"\nsource = "path:/x"\n')

    with pytest.raises(SettingsError, match=f"^'{name}' cannot name a model"):
        load_settings()


def test_without_the_embedded_models_only_the_files_are_left(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "galley.toml").write_text('[models.big]\nkind = "chat"\nsource = "path:/big.gguf"\n')
    monkeypatch.setenv("GALLEY_EMBEDDED_MODELS", "false")

    assert list(load_settings().catalogue) == ["big"]


def test_a_variable_that_nobody_knows_is_an_error_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GALLEY_PROT", "1")

    with pytest.raises(SettingsError, match=r"'GALLEY_PROT'.*Nearest: 'GALLEY_PORT'"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "'prot'. Nearest: 'port'"),
        ("PORT = 1", "'PORT'. Nearest: 'port'"),
        ('[models.a]\nkind = "chat"\nsource = "path:x"\nslot = 3', r"'slot'. Nearest: 'slots'"),
        ("port = ", "is not valid TOML"),
        ("port = 99999", r"galley\.toml: port: "),
        ('[models.a]\nkind = "talk"\nsource = "path:x"', r"models\.a\.kind: "),
        (
            '[models.a]\nkind = "chat"\nsource = "ftp:x"',
            r"models\.a\.source: 'ftp:x' names no place",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_that_says_where(
    home: Path, text: str, said: str
) -> None:
    (home / "galley.toml").write_text(text)

    with pytest.raises(SettingsError, match=said):
        load_settings()


def test_two_defaults_of_one_kind_are_an_error(home: Path) -> None:
    table = '[models.{}]\nkind = "chat"\nsource = "path:x"\ndefault = true\n'
    (home / "galley.toml").write_text(table.format("a") + table.format("b"))

    with pytest.raises(SettingsError, match=r"^a and b are both the default chat model"):
        load_settings()


def test_a_secret_is_read_from_its_file_and_never_shown(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "secret").write_text("gk_hidden\n")
    monkeypatch.setenv("GALLEY_BOOTSTRAP_KEY_FILE", str(home / "secret"))

    settings = load_settings()

    assert settings.bootstrap_key is not None
    assert settings.bootstrap_key.get_secret_value() == "gk_hidden"
    assert origin("bootstrap_key", settings) == ("**********", "GALLEY_BOOTSTRAP_KEY_FILE")
    assert "gk_hidden" not in repr(settings)


def test_a_secret_file_that_is_missing_is_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALLEY_BOOTSTRAP_KEY_FILE", str(home / "nowhere"))

    with pytest.raises(SettingsError, match="GALLEY_BOOTSTRAP_KEY_FILE"):
        load_settings()


def test_a_file_that_is_named_and_not_there_is_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALLEY_CONFIG", str(home / "nope.toml"))

    with pytest.raises(SettingsError, match=r"GALLEY_CONFIG names .*nope\.toml"):
        load_settings()


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [("GALLEY_API_KEYY", "GALLEY_API_KEY"), ("GALLEY_port", "GALLEY_PORT")],
)
def test_the_nearest_name_may_be_the_clients_or_differ_in_case(
    variable: str, nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")

    with pytest.raises(SettingsError, match=f"Nearest: '{nearest}'"):
        load_settings()


def test_a_value_that_does_not_fit_is_told_with_the_variable_that_gave_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "galley.toml").write_text('[models.a]\nkind = "chat"\nsource = "path:/x"\n')
    monkeypatch.setenv("GALLEY_PORT", "none")
    monkeypatch.setenv("GALLEY_MODELS__A__SLOTS", "0")

    with pytest.raises(SettingsError) as found:
        load_settings()

    lines = str(found.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["GALLEY_PORT", "GALLEY_MODELS__A__SLOTS"]


def test_explain_names_every_variable_that_sets_a_part_of_the_models(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "galley.toml").write_text('[models.a]\nkind = "chat"\nsource = "path:/x"\n')
    monkeypatch.setenv("GALLEY_MODELS__A__SLOTS", "2")

    settings = load_settings()

    file = home / "galley.toml"
    assert origin("models", settings) == ("a", f"GALLEY_MODELS__A__SLOTS, {file}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite+aiosqlite:////home/a@b/galley.db", "sqlite+aiosqlite:////home/a@b/galley.db"),
        ("postgresql://me:se/c@ret@db/galley?password=x", "postgresql://me:***@db/galley"),
        ("postgresql://me@db/galley", "postgresql://me@db/galley"),
        ("secret", "**********"),
    ],
)
def test_the_databases_address_is_shown_without_its_password(
    url: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALLEY_DATABASE_URL", url)

    assert origin("database_url", load_settings()) == (shown, "GALLEY_DATABASE_URL")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1
