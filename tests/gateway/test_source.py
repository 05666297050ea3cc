from pathlib import Path

import pytest

from gateway.config import ConfigError, Settings
from gateway.source import Source, check_reload, summary


def settings(**given: object) -> Settings:
    return Settings.model_validate(given)


def model(name: str, **options: object) -> dict[str, object]:
    return {"id": name, "targets": [{"upstream": "local"}], **options}


def test_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dragoman.toml"
    source = Source(config=path, overrides={})
    path.write_text("[server]\nworkers = 1")
    read = source.read()
    path.write_text("[server]\nworkers = 2")

    with pytest.raises(ConfigError, match="changed while it was read"):
        source.keep(read, tmp_path / "copy.toml")
    assert [left.name for left in tmp_path.iterdir()] == [path.name]


def test_file_that_is_half_written_while_it_is_copied_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dragoman.toml"
    path.write_text("[server]\nworkers = 2")
    source = Source(config=path, overrides={})
    read = source.read()
    path.write_text("[server")

    with pytest.raises(ConfigError, match="changed while it was read"):
        source.keep(read, tmp_path / "copy.toml")
    assert [left.name for left in tmp_path.iterdir()] == [path.name]


def test_copy_is_of_what_was_read(tmp_path: Path) -> None:
    path, copy = tmp_path / "dragoman.toml", tmp_path / "copy.toml"
    path.write_text("[server]\nworkers = 3")
    source = Source(config=path, overrides={"port": 0})
    read = source.read()

    assert source.keep(read, copy) == copy
    assert copy.read_text() == path.read_text()


def test_without_a_file_there_is_no_copy(tmp_path: Path) -> None:
    source = Source(config=None, overrides={})

    assert source.keep(source.read(), tmp_path / "copy.toml") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("server", "host", "::1"),
        ("server", "port", 1),
        ("store", "state", "redis://a"),
        ("store", "cache", "redis://b"),
        ("store", "book", "sqlite:///c"),
    ],
)
def test_what_the_parent_has_opened_needs_a_restart(section: str, key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        check_reload(settings(), settings(**{section: {key: value}}))

    assert caught.value.problems == (
        f"{section}.{key}: cannot change while the gateway runs: a restart is needed",
    )


def test_what_workers_alone_use_may_change() -> None:
    check_reload(
        settings(),
        settings(
            server={"workers": 4, "drain_seconds": 1, "retire_seconds": 1},
            store={"on_state_outage": "open", "expected_workers": 8},
            cache={"ttl_seconds": 1},
        ),
    )


def test_summary_counts_models() -> None:
    old = settings(models=[model("a"), model("b"), model("c")])
    new = settings(models=[model("b"), model("c", aliases=["d"]), model("e"), model("f")])

    assert summary(old, new) == "models: 2 added, 1 removed, 1 changed"
