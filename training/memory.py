"""Memory that a training process has freed stays with the process."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of returning it to the system; without glibc nothing changes.

    Each training step frees activations of tens of megabytes. By default glibc gives such blocks back at once, and the
    next step's are mapped and zeroed anew, page by page: in the quick profile's Attention Res-UNet 17,000 page faults
    and a tenth of the time (docs/speed.md). The process then holds its peak until it ends, so this is for processes
    that train and end.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)  # large blocks come from the heap too,
    libc.mallopt(_TRIM_THRESHOLD, -1)  # whose end is never cut off
