"""The service on a Ray cluster of three simulated nodes; skipped where requirements-ray.txt isn't installed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripts
import yaml
from ray_cluster import RayCluster
from service import PROJECT, Service, until

from mayfly import places
from mayfly.on_ray.door import hello
from mayfly.wire import framing
from mayfly.wire.calls import EmbedCall, Request

if importlib.util.find_spec("ray") is None:
    pytest.skip("ray isn't installed (requirements-ray.txt)", allow_module_level=True)

# All of what docs/scale.md tells of: MAYFLY_RAY_CALLS=2000.
CALLS = int(os.environ.get("MAYFLY_RAY_CALLS", "200"))
KILLS = max(2, CALLS // 200)
CLIENTS = 8
# In tenths of a second: longer than any of these tests waits for an answer.
SLOW_PIECES = 2000
RAY_SERVICE = next(yaml.safe_load_all(
    (PROJECT / "deploy" / "kubernetes" / "ray" / "rayservice.yaml").read_text(encoding="utf-8")))


@dataclass
class OnRay:
    """A service whose models are on a cluster, and the threads that can call it."""

    cluster: RayCluster
    service: Service
    pool: ThreadPoolExecutor

    def get(self, work: Callable[[], Any]) -> Any:
        return self.pool.submit(work).result(120)

    def health(self) -> dict[str, Any]:
        return self.get(self.service.health)

    def ready(self) -> None:
        """Wait until each configured model has its two replicas: their processes too, for Ray takes a while to see that
        one has gone."""
        def there() -> bool:
            lanes = self.health()["lanes"]
            return all(lanes[name].get("replicas") == {"RUNNING": 2} and len(self.cluster.replicas(name)) == 2
                       for name in ("embedding", "completion"))

        until(there, within=120, what=lambda: f"two replicas of each: {self.health()}\n{self.service.output()}")


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnRay]:
    folder = tmp_path_factory.mktemp("ray")
    models = folder / "models"
    models.mkdir()
    embed = scripts.write(models, {"when": "poison", "do": "crash"}, name="vectors", kind="embedding")
    slowly = scripts.slowly("slowly", SLOW_PIECES / 10, pieces=SLOW_PIECES)
    chat = scripts.write(models, {"when": "die", "do": "crash"}, slowly, scripts.slowly("counting", 0.2),
                         scripts.slowly("a while", 3.0), name="chat")
    scripts.write(models, {"when": "", "do": "answer", "pieces": ["Another."]}, name="other")
    scripts.write(models, {"when": "poison", "do": "crash"}, {"when": "", "do": "answer", "seconds": 0.002},
                  name="slow vectors", kind="embedding")
    cluster = RayCluster(folder, cores=4)
    try:
        service = Service(
            folder / "service",
            # By its value, as in deploy/kubernetes/ray; the cluster has it in a file.
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": cluster.token, "RAY_AUTH_TOKEN_PATH": None,
             "MODEL_PATH": models, "EMBED_MODEL": embed, "MODEL_NAME": chat, "REPLICAS": 2,
             "LISTEN_PORT": cluster.port},
            ["--on", "ray", "--address", cluster.address],
            command=[*cluster.within(), sys.executable, str(PROJECT / "watchdog.py")])
        with cluster.client(CLIENTS) as pool:
            found = OnRay(cluster, service, pool)
            service.wait_listening()
            found.ready()
            yield found
        service.stop()
    finally:
        cluster.stop()


def test_it_answers_as_everywhere(on_ray: OnRay) -> None:
    service = on_ray.service
    assert len(on_ray.get(lambda: service.embed(["a", "b"]))) == 2
    assert on_ray.get(lambda: service.complete("Hello"))["response"] == "Hello there."
    *events, done = on_ray.get(lambda: list(service.stream("counting", max_tokens=50)))
    assert "".join(event["response"] for event in events) == scripts.counted()
    assert done == "[DONE]"
    assert on_ray.get(lambda: service.post("/v1/tokenize", {"input": "Hello"})).status_code == 200


def test_an_operator_hears_that_a_service_takes_calls(on_ray: OnRay) -> None:
    """What the dashboard does with the configuration of a RayService, and how it tells of what is running."""
    config = yaml.safe_load(RAY_SERVICE["spec"]["serveConfigV2"])
    (named,) = config["applications"]
    operator = """if True:
        import json, sys, ray, time
        from ray import serve
        from ray.serve.context import _get_global_client
        from ray.serve.schema import APIType, ServeDeploySchema
        ray.init(sys.argv[1], namespace="serve", log_to_driver=False)
        client = _get_global_client()
        client.deploy_apps(ServeDeploySchema(**json.loads(sys.argv[2])))
        for _ in range(600):
            told = ray.get(client._controller.get_serve_instance_details.remote(source=APIType.DECLARATIVE))
            if [each["status"] for each in told["applications"].values()] == ["RUNNING"]:
                break
            time.sleep(0.1)
        print(json.dumps({name: each.status for name, each in serve.status().applications.items()}))
        client.deploy_apps(ServeDeploySchema(applications=[]))
    """
    made = subprocess.run([*on_ray.cluster.within(), sys.executable, "-c", operator, on_ray.cluster.address,
                           json.dumps(config)], env=on_ray.cluster.environ, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout.splitlines()[-1])
    # It has left the services' own applications alone.
    assert told == {named["name"]: "RUNNING", **dict.fromkeys(("mayfly-embedding", "mayfly-completion"), "RUNNING")}
    on_ray.ready()


def test_a_cluster_is_ready_when_a_service_beside_one_of_its_nodes_is() -> None:
    from mayfly.on_ray.rayservice import PORT, ready

    says = [503, 200, 200]

    class Said(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(says.pop(0) if self.path == "/ready" else 404)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Said) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        node = {"Alive": True, "NodeManagerAddress": "127.0.0.1", "Resources": {PORT: float(server.server_port)}}
        assert [ready(node), ready(node)] == [False, True]
        assert not ready({**node, "Resources": {}}) and not ready({**node, "Alive": False})
        server.shutdown()
    assert not ready(node) and says == [200]


def test_a_poisonous_call_kills_processes_and_no_replica(on_ray: OnRay) -> None:
    before = on_ray.cluster.replicas("embedding"), on_ray.cluster.replicas("completion")
    for answer in (on_ray.get(lambda: on_ray.service.post("/embed", {"input": ["poison"]})),
                   on_ray.get(lambda: on_ray.service.post("/gpt4all_api", {"prompt": "die"}))):
        error = answer.json()["error"]
        assert answer.status_code == 500
        assert error["code"] == "model_crashed"
        name = re.search(r"report: ([^)]+)\)", error["message"])
        assert name, error
        assert list(on_ray.cluster.logs.glob(f"replicas/*/**/{Path(name[1]).name}"))
    assert (on_ray.cluster.replicas("embedding"), on_ray.cluster.replicas("completion")) == before


def test_services_that_differ_in_what_the_web_process_needs_share_replicas(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mayfly.on_ray.host import settings_for
    from mayfly.settings import parse

    def told(**values: str) -> str:
        return settings_for(parse({"MODEL_PATH": "/models", **values}), "vectors", "embedding", stays=True)

    one = told()
    assert one != told(QUEUE_LIMIT="7")
    monkeypatch.setattr(places, "home", lambda: tmp_path)
    assert one == told(LISTEN_PORT="7000", RUN_FOLDER_NAME="here", LOG_FOLDER_NAME="there", API_KEYS="a" * 40,
                       REPLICAS="1-9")


def test_a_model_that_is_named_gets_replicas(on_ray: OnRay) -> None:
    answer = on_ray.get(lambda: on_ray.service.complete("Hello", model="other"))
    assert answer["response"] == "Another."
    # Ray is asked how its replicas are twice a second.
    until(lambda: "model:other" in on_ray.health()["lanes"], what="the lane of a model that has just answered")


def test_a_cluster_that_a_service_starts_is_its_own(on_ray: OnRay) -> None:
    """Whatever cluster there is already on this machine, or is meant for others."""
    environ = {**on_ray.cluster.environ, "RAY_ADDRESS": on_ray.cluster.address}
    with subprocess.Popen([*on_ray.cluster.within(), sys.executable, "-m", "mayfly.on_ray.node"], env=environ,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdin is not None and node.stdout is not None
        host, _, port = node.stdout.readline().strip().rpartition(":")
        node.stdin.close()
    assert host == "127.0.0.1" and port.isdecimal()
    assert f"{host}:{port}" != on_ray.cluster.address


def test_nobody_is_heard_without_the_token(on_ray: OnRay) -> None:
    """A replica listens for Ray's own calls, which show it, and at its door, where nobody is answered without the
    door's."""
    listening = subprocess.run([*on_ray.cluster.within(), "ss", "-ltnpH"], capture_output=True, text=True,
                               check=True).stdout
    for pid in [*on_ray.cluster.replicas("embedding"), *on_ray.cluster.replicas("completion")]:
        ports = [int(port) for port in re.findall(rf":(\d+) [^\n]*\bpid={pid},", listening)]
        assert len(ports) == 2, listening
        assert sum(on_ray.get(lambda port=port: _hangs_up(port)) for port in ports) == 1, ports
    ask = [*on_ray.cluster.within(), sys.executable, "-c",
           "import sys, ray; ray._raylet.GcsClient(address=sys.argv[1]).internal_kv_get(b'a', b'b', timeout=15)",
           on_ray.cluster.address]
    known = on_ray.cluster.environ
    for environ, knows in ((known, True), ({**known, "RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "1" * 64}, False)):
        asked = subprocess.run(ask, capture_output=True, text=True, check=False, env=environ, timeout=60)
        assert (asked.returncode == 0) == knows, asked.stderr
        assert knows or "oken" in asked.stderr


def _hangs_up(port: int) -> bool:
    """Tell whether a door is there that ends the connection of who has another token than its own."""
    request = framing.encode(Request(EmbedCall("a", ("b",)), time.monotonic() + 60))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(hello("0" * 64, in_pieces=False) + request)
        try:
            return connection.recv(1) == b""
        except ConnectionResetError:
            return True


def test_who_hangs_up_frees_the_replica(on_ray: OnRay) -> None:
    def leave() -> None:
        events = on_ray.service.stream("slowly", max_tokens=SLOW_PIECES)
        next(events)
        events.close()

    for _ in range(4):  # more than there are replicas
        on_ray.get(leave)
    assert on_ray.get(lambda: on_ray.service.complete("Hello"))["response"] == "Hello there."
    until(lambda: on_ray.health()["lanes"]["completion"]["active"] == 0)


def test_a_file_of_texts_gets_all_vectors_though_the_command_is_killed(on_ray: OnRay, tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(24_000)]
    texts[17_321] = "poison"
    source, output = tmp_path / "texts.jsonl", tmp_path / "vectors.npy"
    source.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts))
    models = on_ray.service.folder.parent / "models"
    command = [*on_ray.cluster.within(), sys.executable, "-m", "mayfly", "embed-file", str(source), str(output),
               "--embed-model", "slow vectors.script.json", "--address", on_ray.cluster.address]
    environ = {**on_ray.cluster.environ, "MODEL_PATH": str(models), "MAYFLY_HOME": str(tmp_path)}
    part = tmp_path / "vectors.npy.part"

    def written() -> int:
        return part.stat().st_size if part.exists() else 0

    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as first:
        until(lambda: written() > 100_000 or first.poll() is not None, within=60, what="the first vectors")
        first.kill()
    before = written()
    assert before > 100_000 and not output.exists()
    until(lambda: on_ray.cluster.embedders() == [], within=60, what="the end of who computed for it")
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as second:
        until(lambda: written() > before or second.poll() is not None, within=60, what="more vectors")
        os.kill(on_ray.cluster.embedders()[0], 9)
        printed, said = second.communicate(timeout=120)
    assert second.returncode == 1 and printed == "", printed
    named, *rest = [line for line in said.splitlines() if not line.endswith(" a second")]
    assert named.startswith("mayfly: line 17322 has no vector: "), said
    assert rest == ["mayfly: 1 texts have no vector, but NaN"], said
    vectors = np.load(output)
    assert [row for row in range(len(texts)) if not np.isfinite(vectors[row]).all()] == [17_321]
    hashed = [np.frombuffer(hashlib.shake_256(text.encode()).digest(vectors.shape[1]), np.uint8) - np.float32(127.5)
              for text in texts]
    expected = np.stack([numbers / np.linalg.norm(numbers) for numbers in hashed])
    expected[17_321] = np.nan
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert not part.exists()


def test_a_model_that_cannot_be_served_is_a_line(on_ray: OnRay, tmp_path: Path) -> None:
    refusing = scripts.write(tmp_path, name="refusing", kind="embedding", load="fail")
    (tmp_path / "texts.txt").write_text("a\n")
    said = subprocess.run(
        [*on_ray.cluster.within(), sys.executable, "-m", "mayfly", "embed-file", tmp_path / "texts.txt",
         tmp_path / "vectors.npy", "--embed-model", refusing, "--address", on_ray.cluster.address],
        env={**on_ray.cluster.environ, "MODEL_PATH": str(tmp_path), "MAYFLY_HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=120, check=False)
    assert (said.returncode, said.stdout) == (1, "")
    assert re.fullmatch("mayfly: refusing.script.json refuses to load, .*\n", said.stderr), said.stderr


def test_a_persona_moves_only_if_its_replica_does() -> None:
    from mayfly.on_ray.affinity import ranked

    replicas = [f"replica {number}" for number in range(5)]
    homes = {key: ranked(str(key), replicas, str)[0] for key in range(500)}
    assert min(list(homes.values()).count(replica) for replica in replicas) > 60
    fewer = replicas[:-1]
    moved = [key for key, home in homes.items() if ranked(str(key), fewer, str)[0] != home]
    assert moved == [key for key, home in homes.items() if home == replicas[-1]]


def test_a_driver_that_dies_costs_no_call(on_ray: OnRay) -> None:
    (first,) = on_ray.service.family("app")
    begun = threading.Event()

    def read() -> list[Any]:
        events = []
        for event in on_ray.service.stream("a while", max_tokens=50):
            events.append(event)
            begun.set()
        return events

    reading = on_ray.pool.submit(read)
    assert begun.wait(60)
    os.kill(first, 9)
    while on_ray.service.family("app") in ([], [first]) or on_ray.health()["lanes"]["embedding"].get("reason"):
        assert len(on_ray.get(lambda: on_ray.service.embed(["a", "b"]))) == 2
    assert reading.result(60)[-1] == "[DONE]"
    on_ray.ready()


def test_a_begun_stream_ends_with_an_error(on_ray: OnRay) -> None:
    begun = threading.Event()

    def read() -> list[Any]:
        events = []
        for event in on_ray.service.stream("slowly", max_tokens=SLOW_PIECES):
            events.append(event)
            if len(events) > 3:
                begun.set()
        return events

    reading = on_ray.pool.submit(read)
    assert begun.wait(60)
    for pid in on_ray.cluster.replicas("completion"):
        os.kill(pid, 9)
    events = reading.result(60)
    assert events[-1] != "[DONE]" and events[-1]["error"]["code"] == "model_crashed", events[-2:]
    on_ray.ready()


def test_no_call_is_lost_when_replicas_and_nodes_die(on_ray: OnRay) -> None:
    """One after another, each when what the last one took is there again."""
    service, over = on_ray.service, threading.Event()
    lock = threading.Lock()
    lost: list[str] = []
    seconds: list[float] = []

    def call() -> None:
        while not (over.is_set() and len(seconds) >= CALLS):
            number = len(seconds)
            began = time.monotonic()
            answer = service.post(*(("/gpt4all_api", {"prompt": f"Hello {number}"}) if number % 8 == 0 else
                                    ("/embed", {"input": [f"{number} {text}" for text in range(8)]})))
            with lock:
                seconds.append(time.monotonic() - began)
                if answer.status_code != 200:
                    lost.append(f"{answer.status_code} {answer.text[:300]}")

    with on_ray.cluster.client(CLIENTS) as pool:
        callers = [pool.submit(call) for _ in range(CLIENTS)]
        try:
            for number in range(KILLS):
                on_ray.ready()
                if number % 3 == 1:
                    on_ray.cluster.replace_node()
                else:
                    os.kill(on_ray.cluster.replicas(("embedding", "", "completion")[number % 3])[0], 9)
                due = len(seconds) + CALLS // KILLS
                until(lambda due=due: len(seconds) >= due, within=120, what=lambda: f"calls: {on_ray.health()}")
        finally:
            over.set()
        for caller in callers:
            caller.result(120)
    print(json.dumps({"calls": len(seconds), "kills": KILLS, "lost": len(lost), "slowest": max(seconds)}))
    assert lost == []
    assert len(seconds) >= CALLS


def test_replicas_answer_without_a_head(on_ray: OnRay) -> None:
    """The cluster is lost then; the next test has another one."""
    pid = on_ray.service.pid("app")

    def answered() -> None:
        assert len(on_ray.get(lambda: on_ray.service.embed(["a", "b"]))) == 2
        assert on_ray.get(lambda: on_ray.service.complete("Hello"))["response"] == "Hello there."

    on_ray.cluster.behead()

    def noticed() -> bool:
        answered()
        return "the Ray cluster doesn't answer" in on_ray.health()["lanes"]["embedding"].get("reason", "")

    until(noticed)
    answered()
    left = on_ray.cluster.replicas("embedding")
    assert left
    for replica in left:
        os.kill(replica, 9)
    until(lambda: on_ray.health()["lanes"]["embedding"]["state"] == "loading", what="notice of the replicas' end")
    ready = on_ray.get(lambda: on_ray.service.session.get(on_ray.service.url + "/ready", timeout=60))
    assert ready.status_code == 503 and "Ray cluster" in ready.text
    assert on_ray.service.pid("app") == pid


def test_a_service_connects_to_the_cluster_that_takes_a_lost_ones_place(on_ray: OnRay) -> None:
    """After the one above: what is asked meanwhile waits, and is answered by the new one's replicas."""
    pid = on_ray.service.pid("app")
    waiting = on_ray.pool.submit(on_ray.service.embed, ["a", "b"])
    on_ray.cluster.renew()
    assert len(waiting.result(120)) == 2
    on_ray.ready()
    assert on_ray.get(lambda: on_ray.service.complete("Hello"))["response"] == "Hello there."
    assert on_ray.service.pid("app") == pid


def test_a_service_that_is_told_to_stop_answers_what_it_has(on_ray: OnRay) -> None:
    """Last of all."""
    service = on_ray.service
    answering = on_ray.pool.submit(service.complete, "a while", max_tokens=50)
    until(lambda: on_ray.health()["lanes"]["completion"]["active"] == 1)
    assert service.stop() == 0
    assert answering.result(60)["response"] == scripts.counted()
    assert "app crashed" not in service.output()
