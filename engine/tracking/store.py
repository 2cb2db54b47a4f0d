"""Where tracking goes: the default places, the SQLite file's first minutes, the experiment.

What does not live here: runs and what they hold (`engine.tracking.run_folder`, `engine.tracking.publish`).

MLflow's store in PostgreSQL: its tables are made once, by one process, before any step writes to it.

Why a workspace's tracking database cannot be used, and what mends it without losing the runs it holds.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from filelock import FileLock

from common.errors import InputError
from common.files import written_aside
from engine.links import arms_view
from engine.workspace import ARTIFACTS, SPOOL, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient


_REMEDIES = (
    ("authentication failed", "correct name and password in MLFLOW_TRACKING_URI, or in the file that PGPASSFILE names"),
    ("no password supplied", "write a password into MLFLOW_TRACKING_URI, or into the file that PGPASSFILE names"),
    ("permission denied", "have the database's owner grant this user all rights on it"),
    ("No space left", "free some space on the database's disk, and run this again"),
    ("does not exist", "create the database and its user (createdb, createuser)"),
    ("Connection refused", "start PostgreSQL, or correct the host and port in MLFLOW_TRACKING_URI"),
    ("could not translate host name", "correct the host in MLFLOW_TRACKING_URI"),
    ("too many clients", "wait for others to disconnect, or raise max_connections"),
)
_LOCK = 5_417_226_273  # any number: those who make MLflow's tables at the same time agree on it


def prepare_postgres(uri: str) -> None:
    """Create MLflow's tables in an empty database.

    Raises:
        InputError: The driver is not installed, the database does not answer, or another MLflow wrote it.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    shown = make_url(uri).render_as_string(hide_password=True)
    try:
        with _engine(uri) as (utils, engine):
            _create_or_compare(utils, engine, shown)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{shown} needs {error.name}; pip install 'scarforge[postgres]' and write postgresql+psycopg2://…"
        ) from error
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{shown}: cannot be used as MLflow's store ({reason}); {_remedy(str(error))}") from error


def _remedy(words: str) -> str:
    """Return what mends the cause that PostgreSQL's words tell of."""
    known = (remedy for sign, remedy in _REMEDIES if sign in words)
    return next(known, "check that PostgreSQL runs, that the database exists (createdb) and that this user owns it")


@contextmanager
def _engine(uri: str) -> Iterator[tuple[Any, Any]]:
    from mlflow.store.db import utils
    from sqlalchemy import create_engine

    engine = create_engine(uri)  # MLflow's own would try a database that is down for minutes
    try:
        yield utils, engine
    finally:
        engine.dispose()


def _create_or_compare(utils: Any, engine: Any, shown: str) -> None:
    from sqlalchemy import text

    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": _LOCK})  # freed with the connection
        if utils._is_empty_database(engine):
            utils._initialize_tables(engine)
            return
        found, ours = utils._get_schema_version(engine), utils._get_latest_schema_revision()
    if found != ours:
        raise InputError(
            f"{shown}: was written by another MLflow (schema {found}, here {ours}); save a copy (pg_dump), then "
            "`mlflow db upgrade` with this address, or install the MLflow that wrote it"
        )


_OWN_HOME = "set SCARFORGE_HOME to a folder of your own"
_DAMAGED = ("not a database", "malformed", "encrypted", "disk image", "no such table", "no such column")
_NEWER = ("can't locate revision", "out-of-date database schema", "newer")


def explain_store(path: Path, error: BaseException) -> str:
    """Return in one line why an SQLite store cannot be used, with the remedy of that cause.

    Args:
        path: The database.
        error: What opening, preparing or writing it raised; what that was raised from is looked at, too.
    """
    found = list(_chain(error))
    words = " ".join(_first_line(one) for one in found).lower()
    numbers = {one.errno for one in found if isinstance(one, OSError)}
    if numbers & {errno.ENOSPC, errno.EDQUOT} or "disk is full" in words:
        return f"{path}: its disk is full; free some space, or move SCARFORGE_HOME to another disk, and run this again"
    if any(isinstance(one, TimeoutError) for one in found) or "locked" in words or "busy" in words:
        return f"{path}: is in use by {_holders(path)}; wait for it, or end it, and run this again"
    if numbers & {errno.EACCES, errno.EPERM, errno.EROFS} or "readonly" in words or "unable to open" in words:
        return _not_permitted(path, read_only_disk=errno.EROFS in numbers)
    if any(word in words for word in _NEWER):
        return (
            f"{path}: was written by another MLflow, probably a newer one ({_first_line(error)}); install the MLflow "
            f"that wrote it (pip install --upgrade mlflow), or {_OWN_HOME}. Its runs are whole"
        )
    if any(word in words for word in _DAMAGED):
        return _damaged(path, _first_line(found[-1]))
    return f"{path}: cannot be used as MLflow's store ({_first_line(error)}); check its disk, and run this again"


def _not_permitted(path: Path, read_only_disk: bool) -> str:
    if read_only_disk:
        return f"{path}: lies on a disk that is read-only; {_OWN_HOME}, on a disk that can be written"
    owner = _owner(path)
    return (
        f"{path}: belongs to {owner} and may not be written by you, or its folder may not; {_OWN_HOME}, or ask "
        f"{owner} for the right to write there"
    )


def _damaged(path: Path, reason: str) -> str:
    copies = sorted(path.parent.glob(f"{path.name}.*.bak"))
    backup = f"{copies[-1]} or another backup" if copies else "a backup"
    return (
        f"{path}: is damaged ({reason}); restore {backup}. Only without one move the file away: all results stay, but "
        "the list of runs starts anew, with what `scarforge track replay` still has to send"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from; SQLAlchemy keeps the database's own in `orig`."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = getattr(following, "orig", None) or following.__cause__ or following.__context__


def _holders(path: Path) -> str:
    """Name the processes that have a database or its lock open, as far as this user may see them."""
    import psutil

    wanted, found = {str(path), f"{path}.lock"}, []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and wanted & {file.path for file in process.open_files()}:
                found.append(f"process {process.pid} ({process.name()})")
    return ", ".join(found[:3]) or "another process"


def _owner(path: Path) -> str:
    with suppress(OSError, KeyError, NotImplementedError):
        return next(place for place in (path, *path.parents) if place.exists()).owner()
    return "another user"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


EXPERIMENT = "scarforge"

_ARMS_VIEW, _ARMS_VIEW_TOLD = arms_view()
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # else MLflow's pages are about language models
    "mlflow.note.content": "One run for each training, evaluation and comparison. To see what synthetic slices do, "
    "choose *Views*, *Arms, networks, folds and Dice*, and the chart button: real only beside real + GAN.",
    _ARMS_VIEW: _ARMS_VIEW_TOLD,
}
_SQLITE = "sqlite:///"
_SCHEMES = ("sqlite:///", "http://", "https://", "postgresql", "mysql", "mssql")
_LOCK_TIMEOUT_S = 120.0
_ANSWERS_WITHIN_S = 1.0
# Where MLflow's tables hold addresses of files.
_ARTIFACT_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
# The client's own defaults wait 247 s a call when the server is down.
_CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# These tell every fault at length; the tracker reports such faults itself, in one line.
_NOISY_LOGGERS = ("mlflow.store.db.utils", "mlflow.store.tracking", "alembic", "urllib3.connectionpool")


@dataclass(frozen=True)
class TrackingPlaces:
    """Where runs are sent, where their files go, and the workspace whose folders hold them."""

    uri: str
    artifact_root: Path | None
    home: Path

    @property
    def spool(self) -> Path:
        """Where runs are kept that have no asset's folder, until MLflow has them."""
        return self.home / SPOOL


def tracking_places(home: Path, environment: Mapping[str, str]) -> TrackingPlaces:
    """Give the tracking store of a workspace: SQLite in `home` unless `MLFLOW_TRACKING_URI` names another.

    Args:
        home: The workspace (`SCARFORGE_HOME`).
        environment: Usually `os.environ`.
    """
    home = home.absolute()
    uri = environment.get("MLFLOW_TRACKING_URI") or sqlite_uri(home)
    root = None if uri.startswith("http") else home / ARTIFACTS
    return TrackingPlaces(uri=uri, artifact_root=root, home=home)


def shown(text: str) -> str:
    """Return an address, or a text with addresses in it, without names, passwords and options: for logs and links."""
    if text.startswith(_SQLITE):
        return text
    return re.sub(r"(://[^\s?'\"]*)\?[^\s'\"]*", r"\1", re.sub(r"://[^\s'\"]*@", "://", text))


def connect(uri: str) -> MlflowClient:
    """Give a client for `uri`, creating the tables of a new SQLite file in one process at a time.

    Raises:
        MlflowException, SQLAlchemyError: The store cannot be opened. A server is not contacted yet.
    """
    quieten()
    from mlflow import MlflowClient

    if not uri.startswith(_SQLITE):
        return MlflowClient(tracking_uri=uri)
    with FileLock(_sqlite_lock(uri), timeout=_LOCK_TIMEOUT_S):
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)  # opens the file and creates its tables
        _follow_workspace(_sqlite_path(uri))
    return client


def require_answer(uri: str) -> None:
    """Ask a server for a sign of life, so that one that hangs costs a second; a database is not asked.

    Raises:
        ConnectionError: There is none within a second.
    """
    if not uri.startswith("http"):
        return
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=_ANSWERS_WITHIN_S)
    except requests.RequestException as error:
        raise ConnectionError("no answer") from error


def prepare_store(uri: str, artifact_root: Path | None = None, experiment: str = EXPERIMENT) -> None:
    """Bring a SQLite file up to date and create the experiment, before any step writes to it.

    Several processes that meet a new file would otherwise migrate it side by side and fail; so would those that meet
    a new PostgreSQL database. A server looks after its own store, so for any other `uri` only its form is checked.

    Args:
        uri: Tracking URI, such as `sqlite:////home/me/workspace/mlflow.db`, `postgresql+psycopg2://mlflow@db/mlflow` or
            `http://127.0.0.1:5000`.
        artifact_root: Folder for the files of the experiment's runs, for SQLite and PostgreSQL only.
        experiment: Name of the experiment.

    Raises:
        InputError: The URI is of an unknown kind, or the database cannot be used: it is another user's, in use, on a
            full disk, written by a newer MLflow, or damaged. The message has the remedy of that cause.
    """
    if not uri.startswith(_SCHEMES):
        raise InputError(
            f"tracking URI {shown(uri)!r}: expected one that starts with {', '.join(_SCHEMES)}; set MLFLOW_TRACKING_URI"
        )
    if uri.startswith("postgresql"):
        prepare_postgres(uri)
        experiment_id(connect(uri), experiment, artifact_root)
        return
    if not uri.startswith(_SQLITE):
        return
    quieten()
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    path = _sqlite_path(uri)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_sqlite_lock(uri), timeout=_LOCK_TIMEOUT_S):
            _migrate(uri, path)
        experiment_id(connect(uri), experiment, artifact_root)
    except (CommandError, MlflowException, SQLAlchemyError, OSError) as error:
        raise InputError(explain_store(path, error)) from error


def experiment_id(client: MlflowClient, name: str, artifact_root: Path | None) -> str:
    """Find the experiment, restoring a deleted one, or create it with `artifact_root` for its files."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        served = client.tracking_uri.startswith("http")  # a server knows its own place for files
        location = artifact_root.absolute().as_uri() if artifact_root and not served else None
        if artifact_root and not served:
            artifact_root.mkdir(parents=True, exist_ok=True)  # so that a copied workspace has it, too
        try:
            return client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process was faster
    assert found is not None
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    if _ARMS_VIEW not in found.tags:  # an earlier version's
        client.set_experiment_tag(found.experiment_id, _ARMS_VIEW, _ARMS_VIEW_TOLD)
    return found.experiment_id


def find_experiment(uri: str, name: str) -> str | None:
    """Return the id of an experiment, None where it is not there or the store cannot be reached."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        found = connect(uri).get_experiment_by_name(name)
    except (MlflowException, SQLAlchemyError, OSError):
        return None
    return found.experiment_id if found else None


def quieten() -> None:
    """Set the client's short time-outs and switch off its telemetry, unless the environment says otherwise."""
    for name, value in _CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _migrate(uri: str, path: Path) -> None:
    from mlflow.store.db import utils as mlflow_utils

    utils: Any = mlflow_utils  # untyped
    engine = utils.create_sqlalchemy_engine(uri)
    try:
        is_empty = utils._is_empty_database(engine)
        if not is_empty and (version := utils._get_schema_version(engine)) != utils._get_latest_schema_revision():
            shutil.copy2(path, path.with_name(f"{path.name}.{version}.bak"))
            utils._upgrade_db(engine)
    finally:
        engine.dispose()
    if is_empty:
        _create(utils, path)


def _create(utils: Any, path: Path) -> None:
    """Make MLflow's tables beside their place: a kill between two of its hundred steps would leave what none mends."""
    for stale in path.parent.glob(f".{path.name}.*.partial*"):
        stale.unlink()
    with written_aside(path) as partial:
        engine = utils.create_sqlalchemy_engine(f"{_SQLITE}{partial}")
        try:
            utils._initialize_tables(engine)
        finally:
            engine.dispose()


def _follow_workspace(path: Path) -> None:
    """Point the runs of a workspace that was moved or copied to the files beside its database.

    MLflow keeps the places of files as absolute addresses, and would go on writing where the workspace was.
    """
    here = path.parent.readlink() if path.parent.is_symlink() else path.parent
    beside = here / ARTIFACTS
    with contextlib.closing(sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S)) as database, database:
        for (known,) in database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall():
            if _was_beside(str(known), beside):
                _replace_prefix(database, str(known), beside.as_uri())


def _was_beside(address: str, beside: Path) -> bool:
    """Tell whether an address names the folder of artifacts of another place than the database's own."""
    scheme, _, place = address.partition("://")
    known = Path(unquote(place))
    if scheme != "file" or known.name != ARTIFACTS or known == beside:
        return False
    if not known.exists():
        return True
    return beside.exists() and not known.samefile(beside)


def _replace_prefix(database: sqlite3.Connection, old: str, new: str) -> None:
    for table, column in _ARTIFACT_PLACES:
        database.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 # our own names
            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
        )


def _sqlite_path(uri: str) -> Path:
    from sqlalchemy import make_url

    return Path(make_url(uri).database or "")


def _sqlite_lock(uri: str) -> Path:
    path = _sqlite_path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}.lock")
