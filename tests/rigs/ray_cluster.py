"""A Ray cluster of simulated nodes on this machine, in a network namespace of its own where the kernel allows that.

Ray listens on every interface that there is; here there is but one. `RayCluster` starts this file as a program, which
holds the cluster and does what it reads on its standard input.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from service import PROJECT


class RayCluster:
    """A head that holds no replicas, and nodes that do.

    Args:
        folder: where the token is kept, and logs.
        nodes: how many, beside the head.
        cores: that each says it has.

    Attributes:
        token: what callers show.
        port: of the service that there is to be beside the head, which tells it as deploy/kubernetes/ray has it told.
    """

    def __init__(self, folder: Path, *, nodes: int = 2, cores: int = 2) -> None:
        self.logs = folder / "logs of nodes"
        self.token = secrets.token_hex(32)
        token = folder / "ray_token"
        token.write_text(self.token)
        token.chmod(0o600)
        self.environ = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token),
                        "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(PROJECT),
                        "LOG_FOLDER_NAME": str(self.logs)}
        apart = subprocess.run(["unshare", "-n", "true"], check=False).returncode == 0 if shutil.which(
            "unshare") else False
        self._process = subprocess.Popen(
            [*(["unshare", "-n"] if apart else []), sys.executable, __file__, str(nodes), str(cores)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.environ, start_new_session=True, text=True)
        told = self._read()
        self.address, self.port, self._raylets = told["address"], told["port"], set(told["raylets"])
        self._path = f"/proc/{told['pid']}/ns/net"
        self._space = os.open(self._path, os.O_RDONLY)

    def within(self) -> list[str]:
        """Return what a command begins with that is to run where the cluster does."""
        return ["nsenter", f"--net={self._path}"]

    def client(self, threads: int = 1) -> ThreadPoolExecutor:
        """Return threads whose sockets are where the cluster's are."""
        return ThreadPoolExecutor(threads, initializer=self.enter)

    def enter(self) -> None:
        """Have the sockets that this thread makes from now on be where the cluster's are."""
        if ctypes.CDLL(None, use_errno=True).setns(self._space, 0x40000000):
            raise OSError(ctypes.get_errno(), "setns")

    def replace_node(self) -> None:
        """Kill a node with all that runs on it, and add another."""
        self._raylets |= set(self._ask("replace")["raylets"])

    def behead(self) -> None:
        """Kill the head with all that runs on it."""
        self._ask("behead")

    def renew(self) -> None:
        """Kill what is left, and put another cluster in its place, which knows nothing of the one before."""
        self._raylets = set(self._ask("renew")["raylets"])

    def replicas(self, lane: str) -> list[int]:
        """Return the pids of a lane's replicas."""
        return self._processes(f"ray::ServeReplica:mayfly-{lane}:")

    def embedders(self) -> list[int]:
        """Return the pids of those that compute for `embed-file`."""
        return self._processes("ray::MapWorker(Map(Embedder))")

    def stop(self) -> None:
        """End the cluster."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._space)

    def _processes(self, begins: str) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                name = (entry / "cmdline").read_bytes().decode()
                environ = dict(pair.partition("=")[::2] for pair in
                               (entry / "environ").read_bytes().decode(errors="replace").split("\0"))
            except OSError:
                continue
            if name.startswith(begins) and int(environ.get("RAY_RAYLET_PID", 0)) in self._raylets:
                found.append(int(entry.name))
        return sorted(found)

    def _ask(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                told: dict[str, Any] = json.loads(line)
                return told
        raise AssertionError("the cluster could not be started")


def main(nodes: int, cores: int) -> None:
    """Hold a cluster until standard input ends."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)  # in a new namespace it is down
    from ray.cluster_utils import Cluster

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def start(**head: Any) -> tuple[Cluster, list[Any]]:
        started = Cluster(initialize_head=True, head_node_args={
            "num_cpus": 0, "include_dashboard": False, "resources": {"mayfly_port": port}, **head})
        return started, [started.add_node(num_cpus=cores) for _ in range(nodes)]

    cluster, workers = start()

    def tell() -> None:
        raylets = [started.process.pid for node in [cluster.head_node, *workers]
                   for started in node.all_processes.get("raylet", ())]
        print(json.dumps({"address": cluster.address, "port": port, "pid": os.getpid(), "raylets": raylets}),
              flush=True)

    tell()
    for line in sys.stdin:
        if line == "behead\n":
            cluster.head_node.kill_all_processes(check_alive=False, wait=True)
        elif line == "renew\n":
            for node in [cluster.head_node, *workers]:
                node.kill_all_processes(check_alive=False, wait=True)
            cluster, workers = start(gcs_server_port=int(cluster.address.rpartition(":")[2]))
        else:
            cluster.remove_node(workers.pop(0), allow_graceful=False)
            workers.append(cluster.add_node(num_cpus=cores))
        tell()
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
