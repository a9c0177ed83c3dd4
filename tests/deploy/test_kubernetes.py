"""The manifests against the schemas of Kubernetes, and against the server they start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from engine.artifact_cache import CACHE_BYTES
from engine.cpu.code_files import MAX_BYTES
from server.settings import Settings

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
OBJECTS: dict[str, dict[str, Any]] = {
    name: yaml.safe_load((FOLDER / name).read_text()) for name in KUSTOMIZATION["resources"]
}
KINDS = {manifest["kind"]: manifest for manifest in OBJECTS.values()}
POD = KINDS["Deployment"]["spec"]["template"]
CONTAINER = POD["spec"]["containers"][0]


def test_every_file_is_part_of_the_kustomization():
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(OBJECTS)
    assert set(KINDS) == {
        "Namespace",
        "ServiceAccount",
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
    }


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", OBJECTS)
def test_the_schema_accepts_every_object(name, version):
    kubernetes_validate.validate(OBJECTS[name], version, strict=True)


def test_the_schemas_notice_a_mistake():
    wrong = {**KINDS["Service"], "spec": {**KINDS["Service"]["spec"], "portz": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


def test_everything_selects_the_pods():
    labels = POD["metadata"]["labels"].items()
    assert KINDS["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels
    assert KINDS["Service"]["spec"]["selector"].items() <= labels
    assert KINDS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels
    target = KINDS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "millrace")


def test_a_full_cache_does_not_evict_the_pod():
    [cache] = [volume for volume in POD["spec"]["volumes"] if volume["name"] == "cache"]
    gib = int(cache["emptyDir"]["sizeLimit"].removesuffix("Gi"))
    assert gib << 30 > CACHE_BYTES + MAX_BYTES


def test_a_pod_has_time_to_drain():
    drain = float(environment()["MILLRACE_DRAIN_TIMEOUT_S"])
    sleep = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["spec"]["terminationGracePeriodSeconds"] > sleep + drain + 5  # and the slack


def test_every_probe_asks_a_route_and_port_that_exist():
    ports = {port["name"] for port in CONTAINER["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = CONTAINER[probe]["httpGet"]
        assert get["path"] in {"/v2/health/live", "/v2/health/ready"}
        assert get["port"] in ports
    assert KINDS["Service"]["spec"]["ports"][0]["targetPort"] in ports


def test_startup_may_take_longer_than_a_load():
    probe = CONTAINER["startupProbe"]
    most = Settings.model_fields["load_timeout_s"].default
    assert probe["periodSeconds"] * probe["failureThreshold"] >= most


def test_the_pod_meets_the_restricted_standard():
    assert POD["spec"]["securityContext"]["runAsNonRoot"] is True
    assert POD["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    context = CONTAINER["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    labels = KINDS["Namespace"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_services_own_variables_do_not_become_settings():
    # A service named millrace would set MILLRACE_PORT=tcp://10.0.0.1:80 in the pods.
    assert POD["spec"]["enableServiceLinks"] is False


def test_environment_variables_are_settings():
    for name in environment(secrets=True):
        assert name.removeprefix("MILLRACE_").lower() in Settings.model_fields


def environment(*, secrets: bool = False) -> dict[str, str | None]:
    entries = CONTAINER["env"]
    return {e["name"]: e.get("value") for e in entries if secrets or "value" in e}
