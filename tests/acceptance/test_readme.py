"""The README, done as a newcomer would: its commands are run, its snippet pasted."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from gateway import audio
from gateway.config import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DRAGOMAN = Path(sys.executable).with_name("dragoman")
KEY = re.compile(r"sk-dm_[0-9A-Za-z]{46}")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every command that the README shows after a `$`, continued lines included."""
    return re.findall(r"^\$ ((?:.+\\\n)*.+)$", README, re.MULTILINE)


@dataclass(frozen=True)
class Served:
    port: int
    key: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`dragoman serve` with everything embedded, as `make serve` starts it."""
    data_dir = tmp_path_factory.mktemp("data")
    environment = {**os.environ, "DRAGOMAN_DATA_DIR": str(data_dir)}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [DRAGOMAN, "serve", "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    printed = ""
    while "admin key" not in printed:
        line = process.stdout.readline()
        assert line, f"the gateway ended early: {printed}"
        printed += line
    key = KEY.search(printed)
    assert key is not None
    yield Served(port, key[0], environment)
    process.send_signal(signal.SIGINT)
    process.stdout.close()
    assert process.wait(20) == 0


def shown_after(snippet: str) -> str:
    """What the README says that a snippet prints."""
    return README.split(snippet)[1].split("```console\n")[1].split("```")[0]


def test_the_snippets_print_what_the_readme_shows_and_make_the_picture(
    served: Served, tmp_path: Path
) -> None:
    chat, tour = blocks("python")
    pasted = (chat + tour).replace("sk-dm_…", served.key)
    pasted = pasted.replace("127.0.0.1:8000", f"127.0.0.1:{served.port}")

    done = subprocess.run(
        [sys.executable, "-c", pasted],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert done.stdout == shown_after(chat) + shown_after(tour), done.stderr
    with Image.open(tmp_path / "fox.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (256, 256))
    assert audio.sniff((tmp_path / "fox.mp3").read_bytes()) == "mp3"


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("dragoman")])
def test_every_dragoman_command_runs(command: str, served: Served, tmp_path: Path) -> None:
    environment = served.environment | {"PATH": f"{DRAGOMAN.parent}:{os.environ['PATH']}"}
    listed = subprocess.run(
        [DRAGOMAN, "keys", "list", "--json"], capture_output=True, env=environment, check=True
    )
    newest = json.loads(listed.stdout)[-1]["id"]
    (tmp_path / "request.json").write_text(blocks("json")[0])

    done = subprocess.run(
        command.replace("Ab3dEf9h", newest),
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout or [file for file in tmp_path.iterdir() if file.stat().st_size]


def test_explain_shows_what_the_readme_does(tmp_path: Path) -> None:
    shown = README.split("$ dragoman explain < request.json\n")[1].split("…\n")[0]

    done = subprocess.run(
        [DRAGOMAN, "explain", "--data-dir", tmp_path],
        input=blocks("json")[0],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.startswith(shown)


@pytest.mark.parametrize(
    "command", [line.split("#")[0] for line in commands() if line.startswith("make")]
)
def test_every_make_command_is_a_target(command: str) -> None:
    done = subprocess.run(
        [*shlex.split(command), "--dry-run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", blocks("toml"))
def test_every_configuration_is_one(text: str) -> None:
    values = tomllib.loads(text)

    settings = Settings(**values)

    assert values.keys() == settings.model_fields_set
