"""The commands: their help, their refusals, and `check`."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import Result

from gateway.cli import main
from tests.gateway.dragoman import check_refusal, run
from tests.gateway.running import TOKENIZER


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = list(commands(main))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command: Sequence[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_unknown_option_is_named(command: Sequence[str]) -> None:
    check_refusal(run(*command, "--nope"), "--nope")


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--port", "70000"],
        ["serve", "--port", "x"],
        ["serve", "--workers", "0"],
        ["keys", "create"],
        ["keys", "create", "--name", "a", "--rpm", "-1"],
        ["keys", "create", "--name", "a", "--usd-per-month", "x"],
        ["keys", "create", "--name", "a", "--usd-per-month", "-1"],
        ["keys", "create", "--name", "a", "--usd-per-month", "NaN"],
        ["keys", "create", "--name", "a", "--expires", "soon"],
        ["keys", "create", "--name", "a", "--models", "a,,b"],
        ["keys", "create", "--name", "a", "--models", ""],
        ["keys", "create", "--name", "a", "--metadata", "x"],
        ["keys", "create", "--name", "a", "--metadata", "[1]"],
        ["keys", "create", "--name", "a", "--metadata", '{"a":'],
        ["keys", "show"],
        ["keys", "update", "x"],
        ["keys", "update", "x", "--tpm", "1.5"],
        ["keys", "update", "x", "--expires", "2030-02-30"],
        ["keys", "rotate", "x", "--grace", "1 day"],
        ["keys", "rotate", "x", "--grace", "-1h"],
        ["keys", "revoke"],
        ["keys", "show", "a\udcff"],
        ["keys", "create", "--name", "a", "--metadata", "a=\udcff"],
        ["usage", "--team", "a\udcff"],
        ["teams", "create"],
        ["teams", "update", "x"],
        ["teams", "create", "x", "--concurrency", "many"],
        ["audit", "--limit", "0"],
        ["usage", "--since", "yesterday"],
        ["usage", "--by", "nope"],
        ["usage", "--by", "key,key"],
        ["usage", "--format", "xml"],
        ["usage", "--json", "--format", "csv"],
        ["usage", "--reconcile", "--team", "x"],
        ["usage", "--reconcile", "--format", "csv"],
        ["nope"],
    ],
    ids=" ".join,
)
def test_a_wrong_argument_is_refused(arguments: list[str]) -> None:
    check_refusal(run(*arguments), "Usage: ", "Error: ")


@pytest.mark.parametrize(
    "command",
    [
        ["serve"],
        ["check"],
        ["keys", "list"],
        ["keys", "create", "--name", "a"],
        ["teams", "list"],
        ["usage"],
        ["usage", "--reconcile"],
        ["audit"],
    ],
)
def test_a_wrong_configuration_is_refused_by_every_command(
    tmp_path: Path, command: list[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[server]\nprot = 1\n")
    result = run(*command, "--config", config, "--data-dir", tmp_path)
    check_refusal(result, "dragoman: server.prot: unknown key; expected one of host, port")


@pytest.mark.parametrize("command", ["serve", "check"])
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('api_key_env = "DRAGOMAN_TEST_UNSET"', "upstreams.a.api_key_env: "),
        ('api_key_file = "/nope"', "upstreams.a.api_key_file: "),
    ],
)
def test_a_missing_credential_is_refused(
    tmp_path: Path, command: str, line: str, problem: str
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[[upstreams]]\nname="a"\ndialect="hf"\nbase_url="http://h"\n{line}\n')
    port = ["--port", "0"] if command == "serve" else []
    result = run(command, "--config", config, "--data-dir", tmp_path, *port)
    check_refusal(result, problem)


def test_a_book_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "book.sqlite3").write_bytes(b"this is no database" * 100)
    check_refusal(run("keys", "list", "--data-dir", tmp_path), "book.sqlite3")


def test_a_book_of_another_kind_is_refused_without_its_password(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[store]\nbook = "postgresql://me:hush@db/x"\n')
    result = run("keys", "list", "--config", config, "--data-dir", tmp_path)
    check_refusal(result, "postgresql")
    assert "hush" not in result.output


def test_a_data_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("keys", "create", "--name", "a", "--data-dir", tmp_path / "file" / "data")
    check_refusal(result, "file")


def test_a_pepper_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pepper").write_bytes(b"short")
    check_refusal(run("keys", "create", "--name", "a", "--data-dir", tmp_path), "pepper")


@contextmanager
def upstream(status: int, body: bytes = b"{}") -> Iterator[str]:
    """Answer every GET so; yield the base URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def check(tmp_path: Path, *urls: str, tokenizer: str = "", json_too: bool = False) -> Result:
    lines = []
    for at, url in enumerate(urls):
        lines += ["[[upstreams]]", f'name = "u{at}"', 'dialect = "hf"', f'base_url = "{url}"']
        lines += ["[[models]]", f'id = "m{at}"', f'targets = [{{ upstream = "u{at}" }}]']
        lines += [f'tokenizer = "{tokenizer or TOKENIZER}"']
    config = tmp_path / "config.toml"
    config.write_text("\n".join(lines))
    options = ["--json"] if json_too else []
    return run("check", "--config", config, "--data-dir", tmp_path, *options)


def test_check_passes_when_all_upstreams_answer(tmp_path: Path) -> None:
    with upstream(200) as url:
        result = check(tmp_path, url)
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["ok"] * 3
    assert "upstream u0 (m0): answers" in result.stdout


def test_check_fails_when_an_upstream_cannot_be_reached(tmp_path: Path) -> None:
    with upstream(200) as url:
        result = check(tmp_path, url, "http://127.0.0.1:1")
    assert result.exit_code == 1
    marks = [(line.split()[0], "u1 (m1)" in line) for line in result.stdout.splitlines()]
    assert [mark for mark in marks if mark[0] != "ok"] == [("PROBLEM", True)]


@pytest.mark.parametrize(("status", "code"), [(401, 1), (402, 1), (403, 1), (500, 1), (404, 0)])
def test_check_fails_when_an_upstream_refuses_the_gateway(
    tmp_path: Path, status: int, code: int
) -> None:
    with upstream(status) as url:
        result = check(tmp_path, url)
    assert result.exit_code == code
    assert str(status) in result.stdout.splitlines()[-1]


def test_check_fails_without_a_template(tmp_path: Path) -> None:
    with upstream(200) as url:
        result = check(tmp_path, url, tokenizer=str(tmp_path / "nope"))
    assert result.exit_code == 1
    assert "PROBLEM  template of m0: " in result.stdout


def test_check_prints_json_and_nothing_else(tmp_path: Path) -> None:
    result = check(tmp_path, "http://127.0.0.1:1", json_too=True)
    findings = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [finding["ok"] for finding in findings] == [True, True, False]
    assert all(finding["subject"] and finding["detail"] for finding in findings)
