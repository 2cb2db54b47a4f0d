"""Where everything lies: `<home>/<source>/<profile>/<asset>/fold_<K>[/seed_<S>]`."""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from common.errors import InputError
from common.files import EVERYTHING, mark_own, move
from engine.locks import LOCKS

DATABASE, ARTIFACTS, SPOOL = "mlflow.db", "mlflow_artifacts", "tracking_spool"
EXPERIMENTS, ARMS = "experiments", "arms"
MESSAGES = "notifications.log"


def home_of(environment: Mapping[str, str]) -> Path:
    """Return the absolute workspace that the environment names: `SCARFORGE_HOME`, default `./workspace`."""
    return Path(environment.get("SCARFORGE_HOME") or "workspace").absolute()


def addressable(folder: Path) -> Path:
    """Return a path to `folder` that an SQLite file's address can hold.

    Dagster and MLflow paste paths into addresses, where `?` ends a path and `%20` is a space. A folder of such a name
    is reached by a link in the user's cache.

    Raises:
        InputError: The link cannot be made.
    """
    if _can_be_pasted(folder):
        return folder
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    link = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scarforge" / "homes" / name
    try:
        _link(link, folder)
    except OSError as error:
        raise InputError(_no_link(folder, f"{link}: {error.strerror}")) from error
    if not _can_be_pasted(link):
        raise InputError(_no_link(folder, f"{link} has such a name, too"))
    return link


def _can_be_pasted(path: Path) -> bool:
    return "?" not in str(path) and unquote(str(path)) == str(path)


def _link(link: Path, folder: Path) -> None:
    if link.is_symlink() and link.readlink() == folder:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    partial = link.with_name(f".{link.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    partial.symlink_to(folder)
    move(partial, link)


def _no_link(folder: Path, reason: str) -> str:
    return (
        f"{folder}: a `?`, or a `%` before two hexadecimal digits, can stand in no database's address, and no link can "
        f"replace it ({reason}); choose a SCARFORGE_HOME without them"
    )


def mark_home(home: Path) -> None:
    """Mark what lies in a workspace beside the folders of its sources."""
    mark_own(home, ("dagster", "logs", LOCKS, SPOOL, ARTIFACTS, MESSAGES), (f"{DATABASE}*",))


def sqlite_uri(home: Path) -> str:
    """Return the address of MLflow's default store in a workspace: an SQLite file beside the artifacts."""
    return f"sqlite:///{addressable(home) / DATABASE}"


@dataclass(frozen=True)
class Workspace:
    """The folders of one source and profile under one home (`SCARFORGE_HOME`, default `./workspace`).

    Attributes:
        home: The workspace.
        source: Format of the studies.
        profile: The profile.
        experiment: `<experiment>/arms/<arm>` where these are an arm's folders; empty for the graph's own.
    """

    home: Path
    source: str
    profile: str
    experiment: str = ""

    @property
    def base(self) -> Path:
        """The folder of this source and profile."""
        return self.home / self.source / self.profile

    @property
    def root(self) -> Path:
        """The folder of the assets: the graph's own, or an arm's."""
        return self.base / EXPERIMENTS / self.experiment if self.experiment else self.base

    def same_elsewhere(self, place: Path) -> list[Path]:
        """Return where the asset of a folder lies in the graph's own workspace and in those of all other arms."""
        roots = (self.base, *sorted(self.base.glob(f"{EXPERIMENTS}/*/{ARMS}/*")))
        return [root / place.relative_to(self.root) for root in roots if root != self.root]

    def place(self, asset: str, fold: int | None = None, seed: int | None = None) -> Path:
        """Return the folder of an asset; unpartitioned assets have no fold, only models and scores have seeds."""
        folder = self.root / asset
        if fold is not None:
            folder = folder / f"fold_{fold}"
        if seed is not None:
            folder = folder / f"seed_{seed}"
        return folder

    def mark(self) -> None:
        """Mark what lies here as the program's own: a folder of studies may hold the workspace."""
        mark_home(self.home)
        mark_own(self.base, (), (EVERYTHING,))

    @property
    def spool(self) -> Path:
        """Where tracking keeps what could not be sent."""
        return self.home / SPOOL

    @property
    def locks(self) -> Path:
        """Where the locks on accelerators lie."""
        return self.home / LOCKS

    @property
    def tracking_uri(self) -> str:
        """The default MLflow store: an SQLite file beside the artifacts."""
        return sqlite_uri(self.home)

    @property
    def artifact_root(self) -> Path:
        """Where the default MLflow store keeps artifacts."""
        return self.home / ARTIFACTS
