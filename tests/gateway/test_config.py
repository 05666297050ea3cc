"""A configuration that is wrong is refused, naming each key and what was expected there."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ConfigError, Settings
from gateway.config_catalog import Upstream
from gateway.config_file import load
from gateway.local_models import with_local_upstream

UPSTREAM = '[[upstreams]]\nname = "a"\ndialect = "hf"\nbase_url = "http://h"\n'
MODEL = '[[models]]\nid = "m"\ntargets = [{ upstream = "a" }]\n'


def load_text(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def problems(tmp_path: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        load_text(tmp_path, text)
    assert str(refused.value) == "\n".join(refused.value.problems)
    return refused.value.problems


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("prot = 1", "prot", "server, store"),
        ("[severs]\na = 1", "severs", "server, store"),
        ("_env_file = 'x'", "_env_file", "server, store"),
        ("[server]\nprot = 1", "server.prot", "host, port"),
        (f"{UPSTREAM}api_key = 's'", "upstreams.0.api_key", "name, dialect"),
        (f"{UPSTREAM}{MODEL}contxt = 1", "models.0.contxt", "id, aliases"),
        (f"{UPSTREAM}{MODEL}price.usd = 1", "models.0.price.usd", "input_usd_per_million"),
        (f"{UPSTREAM}{MODEL}defaults.temp = 1", "models.0.defaults.temp", "temperature, top_p"),
        (
            f"{UPSTREAM}{MODEL}".replace('"a" }', '"a", wieght = 2 }'),
            "models.0.targets.0.wieght",
            "upstream, model, weight",
        ),
    ],
)
def test_an_unknown_key_is_named_with_those_that_are_expected(
    tmp_path: Path, text: str, key: str, expected: str
) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(f"{key}: unknown key; expected one of {expected}")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("server = 5", "server"),
        ('[server]\nport = "x"', "server.port"),
        ("[server]\nport = 65536", "server.port"),
        ("[server]\nworkers = 0", "server.workers"),
        ("[server]\nmax_body_mb = 0", "server.max_body_mb"),
        ("[server]\ndrain_seconds = -1", "server.drain_seconds"),
        ('[store]\non_state_outage = "shut"', "store.on_state_outage"),
        ('[store]\nstate = "http://a"', "store.state"),
        ('[store]\nstate = "redis://a:1,b:2"', "store.state"),
        ('[store]\ncache = "redis+cluster://a:1,,b:2"', "store.cache"),
        ('[store]\ncache = "redis://a:1/0?patience=1"', "store.cache"),
        ('[cache]\nscope = "world"', "cache.scope"),
        ("upstreams = 5", "upstreams"),
        ("[[upstreams]]", "upstreams.0.name"),
        (UPSTREAM.replace('"a"', '"a b"'), "upstreams.0.name"),
        (UPSTREAM.replace("http:", "ftp:"), "upstreams.0.base_url"),
        (UPSTREAM.replace("//h", "//user:secret@h"), "upstreams.0.base_url"),
        (UPSTREAM.replace("//h", "//["), "upstreams.0.base_url"),
        (UPSTREAM.replace("//h", "//h:99999"), "upstreams.0.base_url"),
        (UPSTREAM.replace('"hf"', '"smtp"'), "upstreams.0: dialect"),
        (f"{UPSTREAM}timeout_seconds = 0", "upstreams.0.timeout_seconds"),
        (f'{UPSTREAM}{MODEL}task = "dance"', "models.0.task"),
        (f"{UPSTREAM}{MODEL}aliases = 5", "models.0.aliases"),
        (f"{UPSTREAM}[[models]]\nid = 'm'\ntargets = []", "models.0.targets"),
        (f"{UPSTREAM}[[models]]\nid = 'm n'\ntargets = [{{ upstream = 'a' }}]", "models.0.id"),
    ],
)
def test_a_wrong_value_is_named_by_its_key(tmp_path: Path, text: str, key: str) -> None:
    assert any(problem.startswith(f"{key}: ") for problem in problems(tmp_path, text))


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, "[server]\nport = -1\nprot = 1\n[cache]\nscope = 5")
    assert [problem.partition(":")[0] for problem in found] == [
        "server.port",
        "server.prot",
        "cache.scope",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (UPSTREAM * 2, "upstreams: 'a' is named twice"),
        (f"{UPSTREAM}{MODEL}{MODEL}", "models: 'm' is named twice"),
        (f"{UPSTREAM}{MODEL}aliases = ['m']", "models: 'm' is named twice"),
        (f"{UPSTREAM}{MODEL}".replace('upstream = "a"', 'upstream = "b"'), "expected one of a"),
        (f"{UPSTREAM}api_key_env = 'A'\napi_key_file = 'b'", "api_key_env, api_key_file: expected"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in "\n".join(problems(tmp_path, text))


@pytest.mark.parametrize("text", ["port\n", "[server\n", "[a]\n[a]\n"])
def test_what_is_not_toml_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert "config.toml: not TOML: " in problem
    assert "(at line " in problem


@pytest.mark.parametrize("text", ["a = " + 1000 * "[", "a = " + 5000 * "9"])
def test_what_is_too_much_for_a_parser_is_refused_as_well(tmp_path: Path, text: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert "config.toml: not TOML: " in problem


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope\.toml: No such file"):
        load(tmp_path / "nope.toml")


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="not TOML"):
        load(path)


def test_variables_override_the_file_and_options_override_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[server]\nport = 1\nworkers = 2\nhost = 'a'\n")
    monkeypatch.setenv("DRAGOMAN__SERVER__PORT", "3")
    monkeypatch.setenv("DRAGOMAN__SERVER__WORKERS", "4")
    server = load(path, overrides={"workers": 5}).server
    assert (server.host, server.port, server.workers) == ("a", 3, 5)


def test_a_whole_section_can_be_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "DRAGOMAN__UPSTREAMS", '[{"name": "a", "dialect": "tgi", "base_url": "http://h"}]'
    )
    assert [one.name for one in load(None).upstreams] == ["a"]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("DRAGOMAN__SEVER__PORT", "1", "DRAGOMAN__SEVER__PORT: no such section; expected one of"),
        ("DRAGOMAN__SERVER__PROT", "1", "server.prot: unknown key; expected one of host, port"),
        ("DRAGOMAN__SERVER__PORT", "x", "server.port: "),
        ("DRAGOMAN__SERVER", "x", "DRAGOMAN__SERVER: expected JSON"),
        ("DRAGOMAN__UPSTREAMS", "[", "DRAGOMAN__UPSTREAMS: expected JSON"),
    ],
)
def test_a_wrong_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused:
        load(None)
    assert refused.value.problems[0].startswith(problem)


def upstream(**fields: object) -> Upstream:
    return Upstream.model_validate({"name": "a", "dialect": "hf", "base_url": "http://h", **fields})


def test_a_credential_comes_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", " secret\n")
    assert upstream(api_key_env="A_KEY").api_key() == "secret"


def test_a_credential_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("secret\n")
    assert upstream(api_key_file=path).api_key() == "secret"


def test_no_credential_is_needed() -> None:
    assert upstream().api_key() is None


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("A_KEY", raising=False)
    else:
        monkeypatch.setenv("A_KEY", value)
    with pytest.raises(ConfigError, match=r"^upstreams\.a\.api_key_env: the variable A_KEY"):
        upstream(api_key_env="A_KEY").api_key()


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_a_file_without_credential_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^upstreams\.a\.api_key_file: '.*key' cannot be read"):
        upstream(api_key_file=path).api_key()


def test_the_local_models_are_there_when_nothing_is_configured() -> None:
    settings = with_local_upstream(load(None), "http://127.0.0.1:1")
    assert [one.name for one in settings.upstreams] == ["local"]
    assert settings.models[0].aliases == ("local-chat",)


def test_the_local_models_are_not_there_beside_an_upstream(tmp_path: Path) -> None:
    settings = load_text(tmp_path, UPSTREAM)
    assert with_local_upstream(settings, "http://127.0.0.1:1") is settings


def test_the_hubs_models_are_beside_the_local_ones_if_its_token_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert not with_local_upstream(load(None), "http://127.0.0.1:1").hub.enabled
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert with_local_upstream(load(None), "http://127.0.0.1:1").hub.enabled


def test_the_hubs_models_are_not_beside_others_unless_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert not load_text(tmp_path, UPSTREAM).hub.enabled
    assert load_text(tmp_path, f"[hub]\nenabled = true\n{UPSTREAM}").hub.enabled


def test_the_hub_can_be_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    settings = load_text(tmp_path, "[hub]\nenabled = false")
    assert with_local_upstream(settings, "http://127.0.0.1:1").hub.enabled is False


def test_the_hub_is_where_its_own_clients_look_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert load(None).hub.address == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert load(None).hub.address == "https://mirror.example"
    settings = load_text(tmp_path, '[hub]\nurl = "https://h.example"')
    assert settings.hub.address == "https://h.example"
