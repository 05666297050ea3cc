"""The Dockerfile: pinned, unprivileged, without an index's address, of locked packages."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.deploy.folder import DEPLOY, read, without_comments

DOCKERFILE = re.sub(r"\\\n\s*", "", without_comments(read("Dockerfile")))
INSTRUCTIONS = [line.split(None, 1) for line in DOCKERFILE.splitlines() if line.strip()]
FINAL = INSTRUCTIONS[[i for i, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM"][-1] :]


def final(word: str) -> list[str]:
    """Return the arguments of an instruction in the last stage."""
    return [arguments for one, arguments in FINAL if one == word]


def locked(name: str) -> set[str]:
    """Return the requirements of a lock file, without their hashes."""
    return set(re.findall(r"^[a-z0-9][^\s;]+", read(f"lock/{name}.txt"), re.MULTILINE))


def test_every_stage_begins_with_an_image_that_can_be_pinned() -> None:
    images = [arguments.split()[0] for word, arguments in INSTRUCTIONS if word == "FROM"]
    assert images == ["${PYTHON_IMAGE}"] * 2
    assert ["ARG", "PYTHON_IMAGE=python:3.11-slim-bookworm"] in INSTRUCTIONS


def test_it_runs_as_a_numbered_user_who_is_not_root() -> None:
    assert final("USER") == ["10001:10001"]  # a number, as Kubernetes can check only that


def test_nothing_names_an_index() -> None:
    assert not re.search(r"https?://(?!127\.0\.0\.1)|--(extra-)?index-url|-i ", DOCKERFILE)
    for path in (DEPLOY / "lock").glob("*.txt"):
        assert "://" not in path.read_text(encoding="utf-8")


def test_packages_are_installed_by_their_hashes() -> None:
    installs = re.findall(r"pip install[^&\n]*", DOCKERFILE)
    assert [one.split()[2:4] for one in installs] == [
        ["--require-hashes", "--no-deps"],
        ["--no-deps", "--no-build-isolation"],
    ]


def test_pip_is_not_in_the_image() -> None:
    assert "python -m pip uninstall --yes wheel setuptools pip" in DOCKERFILE
    assert "/opt/dragoman/bin/pip uninstall --yes hatchling editables setuptools pip" in DOCKERFILE


def test_the_image_has_what_the_tests_ran_with_and_no_local_models() -> None:
    image, tested = locked("gateway"), locked("dev")
    assert image <= tested
    extras = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    left_out = {re.split("[=>]", one)[0] for one in (*extras["local"], *extras["asr"])} - {"numpy"}
    assert not {one.split("==")[0] for one in image} & left_out


def test_all_that_is_copied_is_let_through_to_the_build() -> None:
    ignored = without_comments(read("Dockerfile.dockerignore")).split()
    assert ignored[0] == "*"
    for word, arguments in INSTRUCTIONS:
        if word == "COPY" and not arguments.startswith("--from"):
            for source in arguments.split()[:-1]:
                path = source.replace("/${LOCK}.txt", "")
                assert f"!{path}" in ignored
                assert (DEPLOY.parent / path).exists()


@contextmanager
def gateway_that_answers(status: int) -> Iterator[int]:
    """Yield the port of a server that answers everything with `status`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (500, 1)])
def test_the_health_check_tells_a_gateway_that_is_well_from_one_that_is_not(
    status: int, code: int
) -> None:
    [check] = final("HEALTHCHECK")
    command = json.loads(check[check.index("CMD ") + 4 :])
    with gateway_that_answers(status) as port:
        env = {"DRAGOMAN__SERVER__PORT": str(port), "http_proxy": "http://127.0.0.1:1"}
        done = subprocess.run([sys.executable, *command[1:]], env=env, check=False)
    assert command[0] == "python"
    assert done.returncode == code


@pytest.mark.skipif(not shutil.which("hadolint"), reason="needs hadolint")
def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(
        ["hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
