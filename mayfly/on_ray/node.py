"""A Ray cluster of this machine alone, for a service that was told of none.

The watchdog starts `python -m mayfly.on_ray.node`. That says on standard output where the cluster is, and ends, with
all that Ray has started, when its standard input does: with the watchdog, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mayfly.compat.files import open_new

#: What Ray is told by its environment: callers show a token, nobody is told of its use, and it asks no cloud whether it
#: runs there.
ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}
# What it takes for a node to be on the loopback interface alone: but for Windows and macOS, Ray puts the address of
# another interface in the place of 127.0.0.1, and then listens on all of them.
_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_PATIENCE = 15.0


@contextlib.contextmanager
def started(folder: Path) -> Iterator[str]:
    """Have a cluster as long as the context lasts; yield its address.

    Args:
        folder: where the token is kept, in a file that only this user can read.

    Raises:
        OSError: it doesn't come up.
    """
    token = folder / "ray_token"
    token.unlink(missing_ok=True)
    with os.fdopen(open_new(token), "w") as file:
        file.write(secrets.token_hex(32))
    os.environ.update({**ENVIRONMENT, **_ON_LOOPBACK, "RAY_AUTH_TOKEN_PATH": str(token)})
    process = subprocess.Popen([sys.executable, "-m", "mayfly.on_ray.node"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        address = process.stdout.readline().decode().strip()
        if not address:
            raise OSError("Ray could not be started; what it said is above")
        yield address
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
        process.kill()
        process.wait()
        token.unlink(missing_ok=True)


def close_token_file() -> None:
    """Let only this user read the token: Ray makes its file readable for all."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if path.exists() and path.stat().st_mode & 0o077:
        path.chmod(0o600)


def main() -> None:
    """Be the cluster's head until standard input ends."""
    said = os.dup(1)
    os.dup2(2, 1)  # Ray prints too
    import ray

    # "local": else Ray would take another cluster that runs on this machine, or RAY_ADDRESS.
    context = ray.init("local", _node_ip_address="127.0.0.1", include_dashboard=False, log_to_driver=False,
                       logging_level="ERROR")
    os.write(said, f"{context.address_info['address']}\n".encode())
    os.close(said)
    sys.stdin.buffer.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
