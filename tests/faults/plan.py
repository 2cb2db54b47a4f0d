"""The plan that the preloaded shim follows (`shim.c`): which call of which kind fails, and how."""

import atexit
import ctypes
import errno
import mmap
import subprocess
from pathlib import Path

KINDS = {"open": 1, "write": 2, "fsync": 4, "rename": 8, "mkdir": 16, "unlink": 32, "memory": 64}
OWNERS = ("Dagster", "MLflow", "a result")
TRAINED = ", trained"  # behind a stage's name: between the end of its training and the end of its step
END = "end"  # the finished fold, whose files are damaged
BIG_ALLOCATION = 1 << 16
COUNT, ONCE, FROM_THERE_ON, KILL = range(4)
ERRORS = {
    "open": (errno.EACCES, errno.EMFILE, errno.EIO),
    "write": (errno.ENOSPC, errno.EIO),
    "fsync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EACCES, errno.EIO, errno.ENOSPC),
    "mkdir": (errno.ENOSPC, errno.EACCES),
    "memory": (errno.ENOMEM,),
}


class Plan(ctypes.Structure):
    """One plan, in memory that is shared with the children of this process."""

    _fields_ = [
        ("at", ctypes.c_long),
        ("counted", ctypes.c_long),
        ("struck", ctypes.c_long),
        ("calls", ctypes.c_long * len(OWNERS) * len(KINDS)),
        ("kinds", ctypes.c_int),
        ("whose", ctypes.c_int),
        ("mode", ctypes.c_int),
        ("error", ctypes.c_int),
        ("armed", ctypes.c_int),
        ("big", ctypes.c_long),
        ("root", ctypes.c_char * 1024),
        ("path", ctypes.c_char * 1024),
    ]

    def set_to(self, root: Path, kinds=0, whose=-1, at=0, mode=COUNT, error=0):
        """Begin anew, unarmed; `whose` is a place in `OWNERS`, or -1 for all files."""
        ctypes.memset(ctypes.addressof(self), 0, ctypes.sizeof(self))
        self.root, self.big = str(root).encode(), BIG_ALLOCATION
        self.kinds, self.whose, self.at, self.mode, self.error = kinds, whose, at, mode, error

    def counts(self):
        """Return the calls so far by kind and owner, as `write/MLflow`."""
        return {f"{kind}/{owner}": self.calls[i][j] for i, kind in enumerate(KINDS) for j, owner in enumerate(OWNERS)}


def shared_plan():
    """Give a plan that the shim of this process and of its children follows once it is armed."""
    plan = Plan.from_buffer(mmap.mmap(-1, mmap.PAGESIZE * 2))
    arm = ctypes.CDLL(None).fault_arm
    arm(ctypes.byref(plan))
    atexit.register(arm, None)  # before the memory goes
    return plan


def build_shim(folder: Path) -> Path:
    shim = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True, timeout=60)
    return shim
