"""One fork server for the steps of a run and for their trainings.

Python tells a fork of its server everything but the server's address: a step would start a server of its own for its
training, which imports torch and MLflow anew (7 s). So the server keeps its address in mind, and forks find it there.
"""

import multiprocessing
import os
import re
import socket
import sys
from multiprocessing import forkserver
from typing import Any

_KNOWN = sys.version_info < (3, 14)  # from then on the server also wants a key that forks are not told
_COMMAND = re.compile(r"from multiprocessing\.forkserver import main; main\((\d+), ")

_address: str | bytes = ""


def remember_address() -> None:
    """Keep the address of the fork server in mind, where this process is one that imports what it is to preload."""
    global _address
    command = _COMMAND.match(sys.orig_argv[-1]) if _KNOWN else None
    if command:
        with socket.socket(fileno=os.dup(int(command[1]))) as listener:
            _address = listener.getsockname()


def join_server() -> bool:
    """Have children of this process forked from the server it came from; say whether it came from one."""
    if not _address or multiprocessing.parent_process() is None:
        return False
    server: Any = vars(forkserver)["_forkserver"]
    server._forkserver_address = _address
    server.ensure_running = lambda: None  # it is: it waits for this process
    return True
