"""The compose file: hardened, without secrets, with time to drain, each store as it has to be."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.config_file import load
from tests.deploy.folder import DEPLOY, SETTLING_SECONDS, read, read_yaml

COMPOSE = read_yaml("compose.yaml")
SERVICES = COMPOSE["services"]
GATEWAYS = [SERVICES["gateway-1"], SERVICES["gateway-2"]]
SECRETS = ("STORE_PASSWORD", "POSTGRES_PASSWORD", "DRAGOMAN_PEPPER", "DRAGOMAN_ADMIN_KEY")


@pytest.fixture
def upstream_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_example")


def seconds(text: str) -> int:
    """Return the length of `75s`, as the file has them all."""
    return int(text.removesuffix("s"))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_has_a_version_and_can_be_replaced(name: str) -> None:
    variable, default = re.fullmatch(r"\${(\w+_IMAGE):-(.+)}", SERVICES[name]["image"]).groups()
    assert default == "dragoman" or re.search(r":v?\d", default)
    assert f"#{variable}={default}" in read(".env.example").splitlines()


def test_secrets_are_variables_that_must_be_given() -> None:
    text = read("compose.yaml")
    example = read(".env.example").splitlines()
    for name in (*SECRETS, "GRAFANA_PASSWORD", "HF_TOKEN"):
        assert f"{name}=" in example
        assert set(re.findall(rf"\${{{name}[^}}]*}}", text)) == {f"${{{name}:?}}"}


def test_only_the_balancer_and_grafana_are_reached_from_outside() -> None:
    published = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert set(published) == {"haproxy", "grafana"}
    assert all("127.0.0.1:" in port for ports in published.values() for port in ports)


def test_the_stores_are_reached_by_the_gateways_only() -> None:
    reach = {name for name, one in SERVICES.items() if "stores" in one["networks"]}
    assert reach == {"gateway-1", "gateway-2", "redis-state", "redis-cache", "postgres"}
    assert COMPOSE["networks"]["stores"] == {"internal": True}


@pytest.mark.usefixtures("upstream_key")
def test_a_gateway_has_time_to_drain_and_so_has_the_balancer() -> None:
    settings = load(DEPLOY / "compose" / "dragoman.toml")
    needed = settings.server.drain_seconds + SETTLING_SECONDS
    for service in (*GATEWAYS, SERVICES["haproxy"]):
        assert seconds(service["stop_grace_period"]) > needed


@pytest.mark.usefixtures("upstream_key")
def test_the_workers_of_both_gateways_are_counted() -> None:
    settings = load(DEPLOY / "compose" / "dragoman.toml")
    assert settings.store.expected_workers == settings.server.workers * len(GATEWAYS)
    for upstream in settings.upstreams:
        assert upstream.api_key_env in GATEWAYS[0]["environment"]


def test_gateways_share_pictures_and_answers_and_nothing_else() -> None:
    first, second = (
        dict(reversed(volume.split(":")[:2]) for volume in one["volumes"]) for one in GATEWAYS
    )
    assert first.pop("/data") != second.pop("/data")
    assert first == second
    assert {"/data/images", "/data/answers"} <= set(first)
    assert "/data /data/answers /data/images" in re.sub(r"\\\n\s*", "", read("Dockerfile"))


@pytest.mark.parametrize(
    ("name", "policy", "appendonly"),
    [("redis-state", "noeviction", "yes"), ("redis-cache", "allkeys-lfu", "no")],
)
def test_a_store_starts_as_it_has_to_be(
    name: str, policy: str, appendonly: str, tmp_path: Path
) -> None:
    script = SERVICES[name]["command"][2].replace("$$", "$")
    shown = run_with_a_server_that_shows_its_settings(script, tmp_path)
    settings = dict(line.split(None, 1) for line in shown.splitlines())
    assert settings["maxmemory-policy"] == policy
    assert settings["appendonly"] == appendonly
    assert settings["requirepass"] == "hunter2"


def run_with_a_server_that_shows_its_settings(script: str, folder: Path) -> str:
    server = folder / "valkey-server"
    server.write_text(f"#!{sys.executable}\nimport sys\nsys.stdout.write(sys.stdin.read())\n")
    server.chmod(0o755)
    env = {"PATH": f"{folder}:/usr/bin:/bin", "STORE_PASSWORD": "hunter2"}
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_balancer_knows_the_gateways_and_holds_nothing_up() -> None:
    text = read("compose/haproxy.cfg")
    for backend in ("gateways", "unready"):
        servers = text.split(f"\nbackend {backend}\n")[1].split("\nbackend")[0]
        assert re.findall(r"server (\S+) \1:8000", servers) == ["gateway-1", "gateway-2"]
    # Streams pause for 0.2 s between pieces without it: measured with HAProxy 2.6.
    assert "option http-no-delay" in text
    assert "retry-on conn-failure" in text


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="needs docker-compose")
def test_compose_itself_agrees() -> None:
    env = dict.fromkeys((*SECRETS, "GRAFANA_PASSWORD", "HF_TOKEN"), "x")
    command: list[Any] = ["docker-compose", "--file", DEPLOY / "compose.yaml", "config", "--quiet"]
    path = str(Path(shutil.which("docker-compose") or "").parent)
    done = subprocess.run(
        command, env={"PATH": path, **env}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("haproxy"), reason="needs haproxy")
def test_haproxy_itself_agrees(tmp_path: Path) -> None:
    # It looks names up at its start.
    config = tmp_path / "haproxy.cfg"
    config.write_text(re.sub(r"gateway-\d:8000", "127.0.0.1:8000", read("compose/haproxy.cfg")))
    done = subprocess.run(
        ["haproxy", "-c", "-f", config], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
