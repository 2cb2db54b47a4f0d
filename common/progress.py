"""Progress for people: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

_SECONDS_BETWEEN_LINES = 15.0


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield `items`, showing how far along they are on standard error.

    Args:
        items: What to go through.
        description: What is being done, such as `augmenting`.
        total: How many items there are, where `items` has no length.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, desc=description, total=total, leave=False)
        return
    count = total if total is not None else (len(items) if isinstance(items, Sized) else None)
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            of = f"/{count}" if count else ""
            print(f"{description}: {done}{of} after {now - start:.0f} s", file=sys.stderr, flush=True)
