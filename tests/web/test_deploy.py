"""The container files, the units and the Kubernetes files say what the code does: an edit of either side shows here."""

from __future__ import annotations

import dataclasses
import json
import plistlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from clients import unavailable
from web_rig import KEY, Service, serving

from mayfly import settings
from mayfly.__main__ import parser
from mayfly.settings import Settings
from mayfly.supervision import refusals

PROJECT = Path(__file__).resolve().parents[2]
DEPLOY = PROJECT / "deploy"
DOCKERFILE = re.sub(r"\\\n\s*", "", (PROJECT / "Dockerfile").read_text(encoding="utf-8"))
COMPOSE = yaml.safe_load((PROJECT / "docker-compose.yml").read_text(encoding="utf-8"))
OBJECTS = [each for file in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
           for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
RAY_SERVICE, *AROUND_RAY = yaml.safe_load_all(
    (DEPLOY / "kubernetes" / "ray" / "rayservice.yaml").read_text(encoding="utf-8"))
RAY_CLUSTER = RAY_SERVICE["spec"]["rayClusterConfig"]
UNIT = (DEPLOY / "mayfly.service").read_text(encoding="utf-8")
PLIST = plistlib.loads((DEPLOY / "mayfly.plist").read_bytes())

FIELDS = {entry.name.upper(): entry.metadata for entry in dataclasses.fields(Settings)}
# Variables of the environment that are no settings.
OTHERS = {"PATH", "HOME", "MAYFLY_HOME", "LD_LIBRARY_PATH"}
#: What ends after GRACE_SECONDS has this long (s): the last bytes, and the workers.
LAST = 2.0


def instruction(name: str) -> str:
    """Return what follows the last instruction of that name in the Dockerfile."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)[-1]


def one(kind: str) -> dict[str, Any]:
    (found,) = (each for each in OBJECTS if each["kind"] == kind)
    return dict(found)


IMAGE = dict(entry.split("=", 1) for entry in instruction("ENV").split())
POD = one("Deployment")["spec"]["template"]
(INIT,), (CONTAINER,) = POD["spec"]["initContainers"], POD["spec"]["containers"]
OWN = {name: each for name, each in COMPOSE["services"].items() if each["image"] == "mayfly"}
ENVIRONMENTS = [IMAGE, *(each.get("environment", {}) for each in OWN.values()),
                *({entry["name"]: entry["value"] for entry in each["env"]} for each in (INIT, CONTAINER)),
                dict(re.findall(r"^Environment=(\w+)=(.*)$", UNIT, re.MULTILINE))]
PORT = FIELDS["LISTEN_PORT"]["default"]


def seconds(environment: dict[str, str]) -> float:
    """Return how long a stop may take."""
    return LAST + sum(float(environment.get(name, FIELDS[name]["default"])) for name in (
        "LAME_DUCK_SECONDS", "GRACE_SECONDS"))


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """A service as the image has it: with a key for everybody."""
    with serving(REQUIRE_KEY=IMAGE["REQUIRE_KEY"]) as service:
        assert service.request("GET", "/v1/models")[0] == 401
        yield service


def test_every_variable_is_a_setting_and_its_value_is_taken(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    for environment in ENVIRONMENTS:
        assert set(environment) <= {*FIELDS, *OTHERS}
        values = {name: str(value).replace("@/run/secrets/mayfly/keys", f"@{keys}").replace("/engine", str(tmp_path))
                  for name, value in environment.items() if name in FIELDS}
        settings.parse({"API_KEYS": KEY, **values})


def test_every_command_is_one_and_needs_no_shell() -> None:
    commands = [json.loads(instruction("CMD")), INIT["args"], PLIST["ProgramArguments"][1:],
                re.search(r"^ExecStart=/opt/mayfly/bin/mayfly (.*)$", UNIT, re.MULTILINE)[1].split()]
    for command in commands:
        assert callable(parser().parse_args(command).run)
    assert json.loads(instruction("ENTRYPOINT")) == ["mayfly"] and CONTAINER.get("args") is None


def test_whoever_looks_after_it_asks_what_answers_without_a_key(service: Service) -> None:
    check = json.loads(instruction("HEALTHCHECK").partition(" CMD ")[2])
    asked = re.search(rf"http://127.0.0.1:{PORT}(/\w+)", check[-1])[1]
    probes = {name: CONTAINER[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    scraped = POD["metadata"]["annotations"]["prometheus.io/path"]
    assert (asked, probes["readinessProbe"], scraped) == ("/ready", "/ready", "/metrics")
    for path in {asked, scraped, *probes.values()}:
        assert service.request("GET", path)[0] == 200
    # The check itself, by this Python: it succeeds where it should, and fails where nobody answers.
    for port, code in ((service.port, 0), (1, 1)):
        script = check[-1].replace(f":{PORT}/", f":{port}/")
        assert subprocess.run([sys.executable, *check[1:-1], script], stderr=subprocess.DEVNULL).returncode == code
    assert CONTAINER["startupProbe"]["periodSeconds"] * CONTAINER["startupProbe"]["failureThreshold"] >= float(
        FIELDS["START_SECONDS"]["default"])


def test_every_port_is_where_it_listens() -> None:
    names = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    ports = [instruction("EXPOSE"), names["http"], POD["metadata"]["annotations"]["prometheus.io/port"],
             one("NetworkPolicy")["spec"]["ingress"][0]["ports"][0]["port"],
             *(port.rpartition(":")[2] for each in OWN.values() for port in each["ports"])]
    assert {str(port) for port in ports} == {PORT}
    asked = [CONTAINER[name]["httpGet"]["port"] for name in CONTAINER if name.endswith("Probe")]
    assert {*asked, *(port["targetPort"] for port in one("Service")["spec"]["ports"])} == {"http"}
    (target,) = yaml.safe_load(COMPOSE["configs"]["prometheus"]["content"])["scrape_configs"][0]["static_configs"]
    assert target["targets"] == [f"mayfly:{PORT}"]
    assert all("mayfly" in each["networks"]["default"]["aliases"] for each in OWN.values())


def test_whoever_stops_it_waits_for_its_lame_duck_and_its_grace() -> None:
    assert float(IMAGE["LAME_DUCK_SECONDS"]) > 0
    assert POD["spec"]["terminationGracePeriodSeconds"] >= seconds(IMAGE)
    for each in OWN.values():
        assert float(each["stop_grace_period"].removesuffix("s")) >= seconds(IMAGE | each.get("environment", {}))
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[1]) >= seconds({})
    assert PLIST["ExitTimeOut"] >= seconds({})
    # Workers that were told to stop as well would drop what they compute.
    assert "\nKillMode=mixed\n" in UNIT


def test_it_runs_without_rights_and_writes_to_its_volumes_alone() -> None:
    assert instruction("USER") == "10001:10001"
    volumes = set(json.loads(instruction("VOLUME")))
    assert {IMAGE["MAYFLY_HOME"], IMAGE["MODEL_PATH"]} == volumes
    for each in OWN.values():
        assert each["read_only"] is True and each["cap_drop"] == ["ALL"]
        assert volumes <= {volume.split(":")[1] for volume in each["volumes"]} <= {*volumes, "/engine"}
    security = POD["spec"]["securityContext"]
    assert security["runAsNonRoot"] and (security["runAsUser"], security["fsGroup"]) == (10001, 10001)
    for each in (INIT, CONTAINER):
        assert each["securityContext"]["readOnlyRootFilesystem"] is True
        assert volumes <= {mount["mountPath"] for mount in each["volumeMounts"]}
    (models,) = (mount for mount in CONTAINER["volumeMounts"] if mount["mountPath"] == IMAGE["MODEL_PATH"])
    assert models["readOnly"] is True


def test_what_no_start_mends_is_not_started_again() -> None:
    assert re.search(r"^RestartPreventExitStatus=(\d+)$", UNIT, re.MULTILINE)[1] == str(refusals.SETTING)


def test_it_is_scaled_by_a_number_that_it_tells(service: Service) -> None:
    told = service.request("GET", "/metrics")[2].decode()
    (metric,) = one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert f"# TYPE {metric['pods']['metric']['name']} gauge\n" in told
    assert one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == one("Deployment")["metadata"]["name"]


@pytest.mark.parametrize("made", OBJECTS, ids=lambda made: made["kind"])
def test_kubernetes_takes_it(made: dict[str, Any]) -> None:
    assert kubernetes_validate.validate(made, kubernetes_validate.latest_version(), strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**made, "spec": {**made["spec"], "nothing": 1}}, "1.37", strict=True)


def test_the_parts_on_kubernetes_find_one_another() -> None:
    labels = POD["metadata"]["labels"]
    selectors = [one("Deployment")["spec"]["selector"]["matchLabels"], one("Service")["spec"]["selector"],
                 one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
                 one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]]
    assert all(selector == labels for selector in selectors)
    claimed = [volume["persistentVolumeClaim"]["claimName"] for volume in POD["spec"]["volumes"]
               if "persistentVolumeClaim" in volume]
    assert claimed == [one("PersistentVolumeClaim")["metadata"]["name"]]


RAY_PODS = {group.get("groupName", "head"): group["template"] for group in (
    RAY_CLUSTER["headGroupSpec"], *RAY_CLUSTER["workerGroupSpecs"])}
FRONT = RAY_PODS["services"]["spec"]["containers"][1]


def test_kubernetes_takes_what_ray_runs_on() -> None:
    """There is no schema of a RayService to be had as a package; that of KubeRay's repository was used by hand."""
    pods = [{"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {**pod["metadata"], "name": name}}
            for name, pod in RAY_PODS.items()]
    for made in [*AROUND_RAY, *pods]:
        assert kubernetes_validate.validate(made, kubernetes_validate.latest_version(), strict=True)


def test_on_kubernetes_ray_is_for_its_own_pods_alone_and_tells_nobody() -> None:
    assert RAY_CLUSTER["authOptions"]["mode"] == "token"
    (version,) = re.findall(r"^ray\[data,serve\]==(\S+)$", (PROJECT / "requirements-ray.txt").read_text(),
                            re.MULTILINE)
    assert RAY_CLUSTER["rayVersion"] == version
    inner, outer = (each["spec"] for each in AROUND_RAY if each["kind"] == "NetworkPolicy")
    own = inner["podSelector"]["matchLabels"]
    operator = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}}
    (dashboard,) = (port["containerPort"] for port in RAY_PODS["head"]["spec"]["containers"][0]["ports"]
                    if port["name"] == "dashboard")
    assert inner["ingress"] == [{"from": [{"podSelector": {"matchLabels": own}}]},
                                {"from": [operator], "ports": [{"protocol": "TCP", "port": dashboard}]}]
    assert [port["port"] for port in outer["ingress"][0]["ports"]] == [int(PORT)] == [
        port["containerPort"] for port in FRONT["ports"]]
    services = RAY_PODS["services"]["metadata"]["labels"]
    (service,) = (each for each in AROUND_RAY if each["kind"] == "Service")
    (budget,) = (each for each in AROUND_RAY if each["kind"] == "PodDisruptionBudget")
    (spread,) = RAY_PODS["services"]["spec"]["topologySpreadConstraints"]
    assert service["spec"]["selector"] == outer["podSelector"]["matchLabels"] == services == (
        budget["spec"]["selector"]["matchLabels"]) == spread["labelSelector"]["matchLabels"]
    assert RAY_PODS["services"]["metadata"]["annotations"] == POD["metadata"]["annotations"]
    for pod in RAY_PODS.values():
        assert own.items() <= pod["metadata"]["labels"].items()
        for container in pod["spec"]["containers"]:
            assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert RAY_PODS["services"]["spec"]["shareProcessNamespace"] is True
    # Each service belongs to the cluster of its own pod, of which there are two while one takes the other's place.
    (cluster,) = (entry for entry in FRONT["env"] if entry["name"] == "CLUSTER")
    assert cluster["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['ray.io/cluster']"
    head = "$(CLUSTER)-head-svc:6379"
    assert FRONT["args"][-1] == head and callable(parser().parse_args(FRONT["args"]).run)
    environ = {entry["name"]: entry["value"] for entry in FRONT["env"] if entry["name"] in FIELDS}
    settings.parse({**environ, "API_KEYS": KEY, "SERVE_ON": "ray",
                    "RAY_ADDRESS": head.replace("$(CLUSTER)", "mayfly-ray-abcde")})
    # The operator's application finds the services by what their nodes say of themselves.
    (resources,) = (json.loads(json.loads(group["rayStartParams"]["resources"])) for group in RAY_CLUSTER[
        "workerGroupSpecs"] if "resources" in group["rayStartParams"])
    assert resources == {"mayfly_port": int(PORT)}
    for pod in (RAY_PODS["replicas"], RAY_PODS["services"]):
        # Without one of its own a node gets one of the operator's that needs a shell, and Serve's proxy.
        assert pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/api/healthz"
    assert RAY_SERVICE["spec"]["rayClusterDeletionDelaySeconds"] > seconds(IMAGE)
    assert RAY_PODS["services"]["spec"]["terminationGracePeriodSeconds"] >= seconds(IMAGE)


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        unavailable("systemd-analyze isn't installed (apt-get install systemd)")
    unit = tmp_path / "mayfly.service"
    for text, taken in ((UNIT, True), (UNIT.replace("KillMode=mixed", "KillMode=mild"), False)):
        unit.write_text(text.replace("/opt/mayfly/bin/mayfly", sys.executable))
        said = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
        # It succeeds with what it doesn't understand, and says so.
        assert said.returncode == 0 and (said.stderr == "") is taken


def test_the_image_is_made_of_what_the_package_is_made_of() -> None:
    kept = set(re.findall(r"^!(.*)$", (PROJECT / ".dockerignore").read_text(), re.MULTILINE))
    assert {name for name in kept if (PROJECT / name).exists()} == kept
    project = (PROJECT / "pyproject.toml").read_text()
    lines = re.findall(r"^(?:readme|license-files|dependencies) = .*", project, re.MULTILINE)
    made_of = {"mayfly", "pyproject.toml", "setup.py", "MANIFEST.in", ".env.example", *re.findall(
        r'"([\w.]+)"', "".join(lines))}
    assert {"README.md", "LICENSE", "requirements.txt"} <= made_of <= kept
    assert not kept & {".env", "models", "logs", ".git"}
