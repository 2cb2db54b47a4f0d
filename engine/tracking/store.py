"""Where tracking goes: the default places, the SQLite file's first minutes, the experiment.

What does not live here: runs and what they hold (`engine.tracking.tracker`), the spool (`engine.tracking.spool`).

MLflow's store in PostgreSQL: its tables are made once, by one process, before any step writes to it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from filelock import FileLock

from common.errors import InputError
from engine.workspace import ARTIFACTS, SPOOL, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient


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
        raise InputError(
            f"{shown}: cannot be used as MLflow's store ({reason}); check that PostgreSQL runs, that the database "
            "exists (createdb) and that this user owns it"
        ) from error


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


EXPERIMENT = "scarforge"

_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # else MLflow's pages are about language models
    "mlflow.note.content": "One run for each training, evaluation and comparison. To see what synthetic slices do, "
    "filter by `tags.stage = 'evaluation' and tags.fold = '0'`, tick the arms of a network and press *Compare*.",
}
_SQLITE = "sqlite:///"
_SCHEMES = ("sqlite:///", "http://", "https://", "postgresql", "mysql", "mssql")
_LOCK_TIMEOUT_S = 120.0
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
# These tell every fault at length; the sender reports such faults itself, in one line.
_NOISY_LOGGERS = ("mlflow.store.db.utils", "mlflow.store.tracking", "alembic", "urllib3.connectionpool")


@dataclass(frozen=True)
class TrackingPlaces:
    """Where runs are sent, where their files go, and where what could not be sent waits."""

    uri: str
    artifact_root: Path | None
    spool: Path


def tracking_places(home: Path, environment: Mapping[str, str]) -> TrackingPlaces:
    """Give the tracking store of a workspace: SQLite in `home` unless `MLFLOW_TRACKING_URI` names another.

    Args:
        home: The workspace (`SCARFORGE_HOME`).
        environment: Usually `os.environ`.
    """
    home = home.absolute()
    uri = environment.get("MLFLOW_TRACKING_URI") or sqlite_uri(home)
    root = None if uri.startswith("http") else home / ARTIFACTS
    return TrackingPlaces(uri=uri, artifact_root=root, spool=home / SPOOL)


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
        InputError: The URI is of an unknown kind, the file is damaged or written by a newer MLflow, or the database
            cannot be used.
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
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: cannot be used as MLflow's store ({reason}); install the MLflow that wrote it, "
            "or move the file away to start a new one"
        ) from error


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
        if utils._is_empty_database(engine):
            utils._initialize_tables(engine)
        elif (version := utils._get_schema_version(engine)) != utils._get_latest_schema_revision():
            shutil.copy2(path, path.with_name(f"{path.name}.{version}.bak"))
            utils._upgrade_db(engine)
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
