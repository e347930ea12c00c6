"""The configuration: three sources in one order, and every mistake named in one clear line."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.configuration import load_settings
from proxy.settings import Settings, SettingsError, default_state_dir

ENGINE = {"engine": ["http://127.0.0.1:8000"]}


def load(
    flags: dict[str, Any] | None = None, env: dict[str, str] | None = None, toml: str = "", at: Any = None
) -> Settings:
    """Settings from these sources; `at` is a directory for the file."""
    config = None
    if at is not None:
        config = Path(at) / "headway.toml"
        config.write_text(toml)
    return load_settings(ENGINE if flags is None else flags, env or {}, config)


def test_an_engine_is_enough() -> None:
    """One URL, nothing else to decide."""
    settings = load()
    assert settings.engine == ("http://127.0.0.1:8000",)
    assert settings.mode == "hybrid"
    assert settings.policy == "auto"


def test_flags_beat_the_environment_and_that_beats_the_file(tmp_path: Path) -> None:
    """File, then environment, then flags; each setting by itself."""
    toml = 'engine = ["http://file:1"]\nport = 1\nwindow = 1\nmax_waiting = 1\n'
    env = {"HEADWAY_PORT": "2", "HEADWAY_WINDOW": "2", "PORT": "9", "OTHER_PORT": "9"}
    settings = load({"port": "3"}, env, toml, tmp_path)
    assert (settings.port, settings.window, settings.max_waiting) == (3, 2, 1)
    assert settings.engine == ("http://file:1",)


def test_the_default_state_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    """`$XDG_STATE_HOME/headway`, or below the home directory."""
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert default_state_dir() == "/x/headway"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert default_state_dir() == "/h/.local/state/headway"


@pytest.mark.parametrize(
    ("flags", "env", "toml"),
    [
        ({"engine": ["http://a:1", "http://b:2"]}, {}, ""),
        ({}, {"HEADWAY_ENGINE": "http://a:1, http://b:2"}, ""),
        ({}, {}, 'engine = ["http://a:1", "http://b:2"]'),
        ({}, {}, 'engine = "http://a:1,http://b:2"'),
    ],
)
def test_several_engines_in_every_source(
    flags: dict[str, Any], env: dict[str, str], toml: str, tmp_path: Path
) -> None:
    """A flag given twice, a list, or URLs with commas."""
    assert load(flags, env, toml, tmp_path).engine == ("http://a:1", "http://b:2")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("traffic_log", "false", False),
        ("traffic_log", "0", False),
        ("traffic_log", "true", True),
        ("max_overtake", "2.5", 2.5),
        ("max_body_bytes", "10", 10),
        ("admin_port", "9000", 9000),
    ],
)
def test_text_becomes_what_the_setting_is(key: str, value: str, expected: Any) -> None:
    """Flags and variables are text; they are read as the setting's type."""
    assert getattr(load(ENGINE | {key: value}), key) == expected
    assert getattr(load(None, {f"HEADWAY_{key.upper()}": value}), key) == expected


@pytest.mark.parametrize("field", [name for name in Settings.__struct_fields__ if name not in ("engine",)])
def test_a_wrong_value_names_its_setting(field: str) -> None:
    """Whatever is wrong with a value, the message says which setting it belongs to."""
    with pytest.raises(SettingsError, match=field):
        load(ENGINE | {field: [["nonsense"]]})


WRONG = [
    ({"port": "70000"}, "port"),
    ({"port": "-1"}, "port"),
    ({"port": "http"}, "port"),
    ({"mode": "fast"}, "mode"),
    ({"policy": "random"}, "policy"),
    ({"policy": "oracle-quantile"}, "policy"),
    ({"window": "0"}, "window"),
    ({"lane_share": "1.5"}, "lane_share"),
    ({"max_overtake": "-1"}, "max_overtake"),
    ({"max_overtake": "nan"}, "max_overtake"),
    ({"max_overtake": "inf"}, "max_overtake"),
    ({"lane_share": "nan"}, "lane_share"),
    ({"body_timeout_s": "nan"}, "body_timeout_s"),
    ({"body_timeout_s": "0"}, "body_timeout_s"),
    ({"engine_timeout_s": "-5"}, "engine_timeout_s"),
    ({"drain_s": "nan"}, "drain_s"),
    ({"engine_wait_s": "nan"}, "engine_wait_s"),
    ({"keepalive_s": "nan"}, "keepalive_s"),
    ({"max_waiting_tokens": "nan"}, "max_waiting_tokens"),
    ({"log_level": "loud"}, "log_level"),
    ({"traffic_log": "perhaps"}, "traffic_log"),
]


@pytest.mark.parametrize(("wrong", "named"), WRONG)
def test_values_out_of_range_are_refused_in_every_source(
    wrong: dict[str, str], named: str, tmp_path: Path
) -> None:
    """Out of range, of another type, not a number: refused by name, wherever it comes from."""
    ((key, value),) = wrong.items()
    for sources in (
        (ENGINE | wrong, {}, ""),
        (ENGINE, {f"HEADWAY_{key.upper()}": value}, ""),
        (ENGINE, {}, f'{key} = "{value}"'),
    ):
        with pytest.raises(SettingsError, match=named) as caught:
            load(*sources, tmp_path)
        assert "\n" not in str(caught.value)


def test_an_unknown_key_is_an_error_in_every_source(tmp_path: Path) -> None:
    """A misspelt setting is never passed over in silence."""
    for sources in (
        (ENGINE | {"portt": 1}, {}, ""),
        (ENGINE, {"HEADWAY_PORTT": "1"}, ""),
        (ENGINE, {}, "portt = 1"),
        (ENGINE, {}, "[portt]\na = 1"),
    ):
        with pytest.raises(SettingsError, match=r"(?i)portt"):
            load(*sources, tmp_path)


def test_an_unknown_key_inside_a_table_is_an_error(tmp_path: Path) -> None:
    """The same holds for entries of [[keys]] and [[classes]]."""
    toml = f'[[keys]]\nsha256 = "{"0" * 64}"\ntenant = "a"\nweigth = 2\n'
    with pytest.raises(SettingsError, match="weigth"):
        load(None, None, toml, tmp_path)


@pytest.mark.parametrize(
    ("sources", "source"),
    [
        ((ENGINE, {}, 'policy = "foo"'), "headway.toml"),
        ((ENGINE, {"HEADWAY_POLICY": "foo"}, 'policy = "fcfs"'), "in the environment"),
        ((ENGINE | {"policy": "foo"}, {"HEADWAY_POLICY": "fcfs"}, ""), "in the flags"),
        ((ENGINE, {}, '[[classes]]\nname = "a"\npolicy = "foo"'), "headway.toml"),
    ],
)
def test_a_word_that_is_no_choice_is_told_the_choices_and_where_it_stands(
    sources: tuple[dict[str, Any], dict[str, str], str], source: str, tmp_path: Path
) -> None:
    """Of the three sources the one that has won is named, and every word that would do; in a table too."""
    with pytest.raises(SettingsError, match=source) as caught:
        load(*sources, tmp_path)
    assert str(caught.value).endswith("fcfs, quantile, work, sjf")


@pytest.mark.parametrize("toml", ['polcy = "fcfs"', '[[classes]]\nname = "a"\npolcy = "fcfs"', "port = 1.5"])
def test_a_wrong_line_of_the_file_names_the_file(toml: str, tmp_path: Path) -> None:
    """An unknown key, one in a table, a value of another type."""
    with pytest.raises(SettingsError, match=r"headway\.toml: .*(polcy|port)"):
        load(None, None, toml, tmp_path)


@pytest.mark.parametrize("toml", ['policy = "sjf"', '[[classes]]\nname = "a"\npolicy = "sjf"'])
def test_sjf_is_refused_where_the_engine_alone_orders(toml: str, tmp_path: Path) -> None:
    """Its keys compare with no other policy's; in the proxy's own queue it is allowed."""
    with pytest.raises(SettingsError, match="sjf goes with mode hold or hybrid"):
        load(ENGINE | {"mode": "engine"}, None, toml, tmp_path)
    assert load(ENGINE | {"mode": "hybrid"}, None, toml, tmp_path).mode == "hybrid"


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "localhost",
        "ftp://host",
        "http://",
        "https:///path",
        "http://host:port",
        "http://host:99999",
        "http://host:8000/v1",
        "http://host:8000/v1/",
        "http://host/v1/chat/completions",
        "http://user:secret@host:8000",
        "http://host:8000?x=1",
        "http://host:8000#x",
        "http://ho st:8000",
        "http://[::1",
        "",
    ],
)
def test_a_url_that_cannot_be_an_engines_is_refused(url: str) -> None:
    """The message says what a base URL looks like, and that /v1 is not part of it."""
    with pytest.raises(SettingsError, match=r"http://|/v1|no engine"):
        load({"engine": [url]})


@pytest.mark.parametrize(
    "url",
    [
        "http://bob:secret@host",
        "http://bob:secret@host/v1",
        "http://bob:secret@host:port",
        "http://bob:sec/secret@host",
        "http://bob:secret @host",
        "dns+https://bob:secret@host",
        "http://host/v1?key=secret",
        "host?key=secret",
    ],
)
def test_a_password_in_an_engines_url_is_never_quoted(url: str) -> None:
    """Whatever else is wrong with the URL: the line may end up in a log."""
    with pytest.raises(SettingsError, match=r"--engine: leave out user, password") as caught:
        load({"engine": [url]})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://[::1]:8000", "https://engine.example", "http://host/prefix", "http://h:1/"]
)
def test_base_urls_of_every_kind_pass(url: str) -> None:
    """IPv6, TLS, a path before the routes, a slash at the end."""
    assert load({"engine": [url]}).engine == (url,)


def test_one_engine_given_twice_is_refused() -> None:
    """Two names for one engine would give it two windows."""
    for urls in (["http://a:1", "http://a:1"], ["http://a:1", "http://a:1/"]):
        with pytest.raises(SettingsError, match="twice"):
            load({"engine": urls})


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """No file, no TOML, no UTF-8, a directory: one line with the file's name."""
    path = tmp_path / "headway.toml"
    for content in (b"port =", b"\xff\xfe", b"[[[", None):
        if content is not None:
            path.write_bytes(content)
        else:
            path.unlink()
        with pytest.raises(SettingsError, match=r"headway\.toml"):
            load_settings(ENGINE, {}, path)
    with pytest.raises(SettingsError):
        load_settings(ENGINE, {}, tmp_path)


def test_nothing_given_says_what_to_give() -> None:
    """Without an engine there is nothing to do."""
    with pytest.raises(SettingsError, match="--engine"):
        load({})


def test_settings_are_the_whole_table() -> None:
    """Every setting but the engine has a default, so that one flag is enough; all can be encoded again."""
    settings = load()
    again = msgspec.convert(msgspec.to_builtins(settings), Settings)
    assert again == settings


def test_the_name_of_the_data_is_no_setting() -> None:
    """A shell in which HEADWAY_DATA is set can start a proxy."""
    assert load_settings(ENGINE, {"HEADWAY_DATA": "/data"}) == load_settings(ENGINE, {})
