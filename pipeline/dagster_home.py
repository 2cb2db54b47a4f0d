"""Dagster's home: one folder in the workspace with its settings, its SQLite files and its logs."""

from pathlib import Path

from training.files import write_atomically

_SETTINGS = """\
# Written once by scarforge; yours to change.
telemetry:
  enabled: false

storage:
  sqlite:
    base_dir: {folder}

concurrency:
  runs:
    max_concurrent_runs: 2
  pools:
    default_limit: 1 # two trainings never share a GPU
    granularity: op

run_monitoring:
  enabled: true
  poll_interval_seconds: 30
  free_slots_after_run_end_seconds: 60 # without this, a crashed run may block its pool for ever

run_retries:
  enabled: true
  max_retries: 0 # runs that ask for it only, as those of the nights do: a run that was killed is continued
  retry_on_asset_or_op_failure: false
"""

_WORKSPACE = """\
load_from:
  - python_module:
      module_name: pipeline.definitions
      location_name: scarforge
"""


def prepare_dagster_home(home: Path) -> Path:
    """Write `dagster.yaml` and `workspace.yaml` in the workspace unless they are there, and give the folder.

    Args:
        home: The workspace (`SCARFORGE_HOME`).

    Returns:
        The absolute folder that `DAGSTER_HOME` has to name.
    """
    folder = home.absolute() / "dagster"
    # A quoted YAML string, so that a folder's name may hold anything.
    quoted = "'" + str(folder).replace("'", "''") + "'"
    _write_once(folder / "dagster.yaml", _SETTINGS.format(folder=quoted))
    _write_once(folder / "workspace.yaml", _WORKSPACE)
    return folder


def _write_once(path: Path, text: str) -> None:
    if not path.exists():
        write_atomically(path, lambda part: _write(part, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
