"""When a folder of studies has changed and come to rest: a digest of its listing, never of its contents."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from imaging.own_files import Mark

QUIET_S = 60.0
LISTING_LIMIT_S = 20.0  # Dagster gives up on a sensor after 60 s
SHARE_OF_TIME = 0.05  # that is spent on listing, at most
INTERVAL_S = 30.0  # between two looks at a folder that is listed quickly


@dataclass(frozen=True)
class Watch:
    """What the sensor remembers between two looks.

    Attributes:
        used: Digest of the listing that a run was last requested for.
        seen: Digest of the last look.
        since: When `seen` was first seen, in seconds since 1970.
        looked: When the folder was last listed, in seconds since 1970.
        listing_s: How long that took.
    """

    used: str = ""
    seen: str = ""
    since: float = 0.0
    looked: float = 0.0
    listing_s: float = 0.0

    @property
    def pause_s(self) -> float:
        """How long to leave the folder alone after a listing, so that a large one is not listed all the time."""
        pause = self.listing_s / SHARE_OF_TIME
        return pause if pause > INTERVAL_S else 0.0

    def to_cursor(self) -> str:
        """Return the text that Dagster keeps."""
        return json.dumps(asdict(self))

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "Watch":
        """Read `to_cursor`'s text; what cannot be read counts as never having looked."""
        try:
            return cls(**json.loads(cursor or "{}"))
        except (ValueError, TypeError):
            return cls()


@dataclass(frozen=True)
class Look:
    """One look at the folder: what to remember, and either a digest to run for or the reason to wait."""

    watch: Watch
    reason: str
    changed: bool = False


def look(watch: Watch, root: Path, now: float) -> Look:
    """Compare the folder with what was seen before.

    A change counts once the listing has stayed the same for a minute of this machine's clock: a copy that keeps
    the times of the originals looks old from its first second.

    Args:
        watch: What is remembered.
        root: Folder of the studies.
        now: In seconds since 1970.
    """
    if now < watch.looked + watch.pause_s:
        left = watch.looked + watch.pause_s - now
        return Look(watch, f"{root}: its listing took {watch.listing_s:.1f} s; the next look is in {left:.0f} s")
    began = time.perf_counter()
    watch = replace(watch, looked=now, listing_s=LISTING_LIMIT_S)
    try:
        files, digest = listing_digest(root)
        watch = replace(watch, listing_s=time.perf_counter() - began)
    except TimeoutError as error:
        return Look(watch, str(error))
    except OSError as error:
        watch = replace(watch, listing_s=time.perf_counter() - began)
        return Look(watch, f"{root}: cannot be listed ({error.strerror or error}); mount it or set SCARFORGE_ROOT")
    if not files:
        return Look(watch, f"{root}: holds no file yet")
    if digest == watch.used:
        return Look(replace(watch, seen=digest, since=now), f"{files} files, unchanged")
    if digest != watch.seen:
        return Look(replace(watch, seen=digest, since=now), f"{files} files, just changed; waiting until it is quiet")
    quiet = now - watch.since
    if quiet < QUIET_S:
        return Look(watch, f"{files} files, quiet for {quiet:.0f} of {QUIET_S:.0f} s")
    return Look(replace(watch, used=digest), f"{files} files, changed", changed=True)


def listing_digest(root: Path) -> tuple[int, str]:
    """Return how many files lie below `root`, and a hash of their names, sizes and times of change.

    Files that this program wrote do not count, as where the workspace or the results of predictions lie there.

    Raises:
        OSError: The folder cannot be listed.
        TimeoutError: It holds too much to be watched.
    """
    lines, began = [], time.perf_counter()
    for line in _listing(root, ""):
        lines.append(line)
        if time.perf_counter() - began > LISTING_LIMIT_S:
            raise TimeoutError(
                f"{root}: {len(lines)} files were listed in {LISTING_LIMIT_S:.0f} s and more are there; set "
                "SCARFORGE_ROOT to a folder that holds the studies alone, or start the runs by hand"
            )
    lines.sort()
    return len(lines), hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:20]


def _listing(folder: Path, prefix: str) -> Iterator[str]:
    mark = Mark.of(folder)
    with os.scandir(folder) as entries:
        for entry in (entry for entry in entries if not mark.covers(entry.name)):
            name = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _listing(Path(entry.path), f"{name}/")
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:  # renamed or removed since it was listed, or a link to nothing
                continue
            yield f"{name}\t{status.st_size}\t{status.st_mtime_ns}"
