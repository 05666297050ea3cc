"""The manifests, rendered: hardened, with time to drain, everything that is named is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config_file import load
from tests.deploy.folder import DEPLOY, SETTLING_SECONDS

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl")

SECRETS = "overlays/example/secrets.env"


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The objects of the example, by their kind, with the secrets that an operator adds."""
    folder = tmp_path_factory.mktemp("kubernetes") / "deploy"
    shutil.copytree(DEPLOY / "kubernetes", folder)
    shutil.copy(folder / f"{SECRETS}.example", folder / SECRETS)
    done = subprocess.run(
        ["kubectl", "kustomize", folder / "overlays" / "example"],
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}


@pytest.fixture
def pod(objects: dict[str, Any]) -> Any:
    return objects["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture
def container(pod: Any) -> Any:
    [one] = pod["containers"]
    return one


def test_the_objects_are_those_that_a_gateway_needs(objects: dict[str, Any]) -> None:
    assert set(objects) == {
        *("ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy"),
        *("PodDisruptionBudget", "PrometheusRule", "Secret", "Service", "ServiceMonitor"),
    }
    assert {one["metadata"]["namespace"] for one in objects.values()} == {"dragoman"}


def test_a_pod_has_no_rights_that_it_does_not_need(pod: Any, container: Any) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_pod_writes_only_into_its_volumes(pod: Any, container: Any) -> None:
    volumes = {one["name"]: one for one in pod["volumes"]}
    writable = {
        one["mountPath"] for one in container["volumeMounts"] if "emptyDir" in volumes[one["name"]]
    }
    assert writable == {"/data", "/tmp"}


def test_a_pod_has_time_to_be_forgotten_and_to_drain(pod: Any, container: Any) -> None:
    settings = load(DEPLOY / "kubernetes" / "overlays" / "example" / "dragoman.toml")
    forgotten = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = forgotten + settings.server.drain_seconds + SETTLING_SECONDS
    assert pod["terminationGracePeriodSeconds"] > needed


def test_probes_ask_what_they_are_for(container: Any) -> None:
    paths = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"]
        for kind in ("startup", "liveness", "readiness")
    }
    assert paths == {"startup": "/health", "liveness": "/health", "readiness": "/ready"}


def test_configuration_and_secret_are_named_by_their_content(
    objects: dict[str, Any], pod: Any, container: Any
) -> None:
    config = objects["ConfigMap"]["metadata"]["name"]
    secret = objects["Secret"]["metadata"]["name"]
    assert config.startswith("dragoman-")
    assert secret.startswith("dragoman-")
    assert [one["configMap"]["name"] for one in pod["volumes"] if "configMap" in one] == [config]
    assert [one["secretRef"]["name"] for one in container["envFrom"]] == [secret]
    assert "dragoman.toml" in objects["ConfigMap"]["data"]


def test_no_secret_is_written_down(objects: dict[str, Any]) -> None:
    assert set(objects["Secret"]["data"].values()) == {""}
    assert not (DEPLOY / "kubernetes" / SECRETS).exists() or "secrets.env" in (
        DEPLOY / ".gitignore"
    ).read_text(encoding="utf-8")


def test_all_selectors_are_of_the_pods(objects: dict[str, Any]) -> None:
    wanted = {"app.kubernetes.io/name": "dragoman"}
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert wanted.items() <= labels.items()
    assert objects["Service"]["spec"]["selector"] == wanted
    for kind, key in (
        ("Deployment", "selector"),
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
    ):
        assert objects[kind]["spec"][key] == {"matchLabels": wanted}


def test_the_monitor_finds_the_service(objects: dict[str, Any]) -> None:
    monitor, service = objects["ServiceMonitor"]["spec"], objects["Service"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    ports = {one["name"] for one in service["spec"]["ports"]}
    assert {one["port"] for one in monitor["endpoints"]} <= ports


def test_the_number_of_pods_is_the_autoscalers(objects: dict[str, Any]) -> None:
    scaler = objects["HorizontalPodAutoscaler"]["spec"]
    assert "replicas" not in objects["Deployment"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == objects["Deployment"]["metadata"]["name"]
    assert scaler["minReplicas"] > objects["PodDisruptionBudget"]["spec"]["maxUnavailable"]


def test_gateways_do_not_reach_the_machine_that_hands_out_credentials(
    objects: dict[str, Any],
) -> None:
    blocks = [
        peer["ipBlock"]
        for rule in objects["NetworkPolicy"]["spec"]["egress"]
        for peer in rule["to"]
        if "ipBlock" in peer
    ]
    assert {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]} in blocks


def test_without_secrets_nothing_is_rendered(tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    shutil.copytree(DEPLOY / "kubernetes", folder, ignore=shutil.ignore_patterns("secrets.env"))
    done = subprocess.run(
        ["kubectl", "kustomize", folder / "overlays" / "example"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "secrets.env" in done.stderr


def test_the_schemas_of_kubernetes_agree(objects: dict[str, Any]) -> None:
    validation = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    for kind, one in objects.items():
        if kind not in ("PrometheusRule", "ServiceMonitor"):
            validation.validate(one, "1.30", strict=True)
