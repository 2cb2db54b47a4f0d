"""A Ray cluster of one machine, on loopback, that leaves nothing behind.

`python -m tests.cluster.local_ray CPUS PORT FOLDER` is the process that holds it: what Ray starts ends with it.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
_START_TIMEOUT_S = 180
_ATTEMPTS = 3  # Ray gives its own parts 30 s to start, which a busy machine may exceed


@contextlib.contextmanager
def local_ray(cpus: int) -> Iterator[str]:
    """Start a cluster with `cpus` places for steps, give its address (`RAY_ADDRESS`), and end it."""
    folder = Path(tempfile.mkdtemp(prefix="ray_", dir="/tmp"))  # short: a socket's path may have 107 bytes
    log, process = folder / "start.log", None
    try:
        for _ in range(_ATTEMPTS):
            address = f"http://127.0.0.1:{(port := free_port())}"
            process = _start([str(cpus), str(port), str(folder)], log)
            if _answers_before_it_ends(process, address):
                break
        else:
            raise RuntimeError(f"Ray did not start:\n{log.read_text(errors='replace')}")
        yield address
        if process.poll() is not None:
            raise RuntimeError(f"Ray ended by itself:\n{log.read_text(errors='replace')}")
    finally:
        if process:
            _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST_"))}
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else Ray takes the machine's outer address for 127.0.0.1
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}  # a token would lie in ~/.ray
    command = [sys.executable, "-m", "tests.cluster.local_ray", *arguments]
    with log.open("ab") as output:
        return subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )


def hold(cpus: int, port: int, folder: str) -> None:
    """Start Ray and wait for a signal. `ray start` would end whenever its client server, not used here, is slow."""
    import ray

    from common.processes import end_with_starter

    end_with_starter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ray.init(
        num_cpus=cpus,
        num_gpus=0,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=port,
        object_store_memory=80 * 2**20,
        _temp_dir=folder,
        _node_ip_address="127.0.0.1",
    )
    while True:
        time.sleep(1)


def free_port() -> int:
    """Return a port that nobody listens on, outside of 10002 to 19999, which Ray keeps for its workers."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if not 10_002 <= port <= 19_999:
            return port


def _answers_before_it_ends(process: subprocess.Popen[bytes], address: str) -> bool:
    give_up = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None:
        if _answer(f"{address}/api/jobs/") and '"ALIVE"' in _answer(f"{address}/nodes?view=summary"):
            return True
        if time.monotonic() > give_up:
            _end(process)
        time.sleep(0.3)
    return False


def _answer(address: str) -> str:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
        return str(answer.read())
    return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what this start has started, by its own numbers: `ray stop` would end other clusters too."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        _, alive = psutil.wait_procs(family, timeout=5)
        for left in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        process.kill()
    process.wait()


if __name__ == "__main__":
    hold(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
