"""Dagster's home: one folder in the workspace with its settings, its logs and, unless PostgreSQL has them, its runs."""

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import yaml

from imaging.errors import InputError
from pipeline.workspace import addressable, mark_home
from training.files import write_atomically

POSTGRES_VARIABLE = "SCARFORGE_DAGSTER_POSTGRES"
_SCHEME = "postgresql+psycopg2://"

# Where no storage is named, Dagster keeps SQLite files beside `dagster.yaml`, wherever that is moved or copied.
_SETTINGS = """\
# Written once by scarforge; yours to change.
telemetry:
  enabled: false

nux:
  enabled: false # no invitation to a newsletter before the first page
{storage}
concurrency:
  runs:
    max_concurrent_runs: 2
  pools:
    default_limit: 1 # two trainings never share a GPU
    granularity: op

run_monitoring:
  enabled: true
  poll_interval_seconds: 30
  max_runtime_seconds: 172800 # two days, then a run is stopped as if cancelled; tag dagster/max_runtime: another limit
  free_slots_after_run_end_seconds: 60 # without this, a crashed run may block its pool for ever

run_retries:
  enabled: true
  max_retries: 0 # runs that ask for it only, as those of the nights do: a run that was killed is continued
  retry_on_asset_or_op_failure: false
"""

_POSTGRES = f"""
storage:
  postgres:
    postgres_url:
      env: {POSTGRES_VARIABLE} # read where it is needed, so that no password lies in this file
"""

# Earlier versions named the folder itself, so that a moved workspace wrote into its old place.
_FIXED_PLACE = re.compile(r"^storage:\n  sqlite:\n    base_dir: '(?:[^'\n]|'')*/dagster'\n\n?", re.MULTILINE)

_WORKSPACE = """\
load_from:
  - python_module:
      module_name: pipeline.definitions
      location_name: scarforge
"""


def prepare_dagster_home(home: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Write `dagster.yaml` and `workspace.yaml` in the workspace unless they are there, and give the folder.

    Runs are kept in SQLite files of that folder, or in the database that `SCARFORGE_DAGSTER_POSTGRES` names.

    Args:
        home: The workspace (`SCARFORGE_HOME`).
        environment: Usually `os.environ`.

    Returns:
        The absolute folder that `DAGSTER_HOME` has to name, by a link where its own name can be in no address.

    Raises:
        InputError: The variable names no PostgreSQL database, its driver is not installed, or the `dagster.yaml` that
            is there keeps runs elsewhere.
    """
    mark_home(home.absolute())
    folder = addressable(home.absolute()) / "dagster"
    _write_settings(folder, _asks_for_postgres(environment))
    _write_once(folder / "workspace.yaml", _WORKSPACE)
    return folder


def _asks_for_postgres(environment: Mapping[str, str]) -> bool:
    url = environment.get(POSTGRES_VARIABLE, "")
    if url and not url.startswith(_SCHEME):
        # SQLAlchemy 2.1 would look for another driver behind `postgresql://` than the one that dagster-postgres has.
        raise InputError(f"{POSTGRES_VARIABLE}: expected {_SCHEME}USER:PASSWORD@HOST:5432/DATABASE")
    if url and find_spec("dagster_postgres") is None:
        raise InputError(f"{POSTGRES_VARIABLE} needs dagster-postgres; pip install 'scarforge[postgres]'")
    return bool(url)


def _write_settings(folder: Path, postgres: bool) -> None:
    path = folder / "dagster.yaml"
    written = path.read_text(encoding="utf-8") if path.exists() else ""
    kept = _FIXED_PLACE.sub("", written)
    wanted = _settings(postgres) if not written or (postgres and kept == _settings(postgres=False)) else kept
    if wanted != written:
        write_atomically(path, lambda part: _write(part, wanted))
    if not written or wanted != kept:
        return
    there = _keeps_runs_in_postgres(path)
    if postgres and not there:
        raise InputError(
            f"{path} was changed by hand and keeps runs elsewhere, while {POSTGRES_VARIABLE} is set; write into it"
            f"{_POSTGRES}or move it away to have a new one written"
        )
    if there and not postgres:
        raise InputError(
            f"{path} keeps runs in PostgreSQL, while {POSTGRES_VARIABLE} is not set; set it, "
            "or move the file away to keep new runs in SQLite"
        )


def _settings(postgres: bool) -> str:
    return _SETTINGS.format(storage=_POSTGRES if postgres else "")


def _keeps_runs_in_postgres(path: Path) -> bool:
    """Tell whether a `dagster.yaml` reads the database's address from our variable."""
    storage = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("storage") or {}
    url = (storage.get("postgres") or {}).get("postgres_url")
    return isinstance(url, dict) and url.get("env") == POSTGRES_VARIABLE


def _write_once(path: Path, text: str) -> None:
    if not path.exists():
        write_atomically(path, lambda part: _write(part, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
