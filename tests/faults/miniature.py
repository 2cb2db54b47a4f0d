"""One fold of a miniature EMIDEC as `scarforge run` makes it, in a child of this process, which has all imported.

What differs from the command: networks are trained in the command's own process instead of one each, Dagster copies no
output of its steps, and a fault that passes is tried again at once instead of after ten seconds.
"""

import gc
import importlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import engine.transient
import pipeline.commands.run as run_command_module
from assets.parts import training_run
from common.files import read_json, write_json
from engine.forge import Forge
from engine.record import RECORD, file_digests, read_record
from engine.tracking.tracker import Tracker
from engine.worker import process
from engine.worker.task import ERROR_FILE
from pipeline.outermost import run_command
from tests.faults.plan import TRAINED
from tests.imaging import fake_emidec
from tests.smallest_fold import smallest_settings

STEPS = 2
SETTINGS = smallest_settings(STEPS)
START = "command"  # what happens before the first stage
VOLATILE = {"history.csv", "timing.json", "training_result.json", "report.html"}
# Dagster writes beside them what a step prints, by a process for each; the sweep reads what the command prints.
QUIET_DAGSTER = """\
telemetry: {enabled: false}
compute_logs: {module: dagster._core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}
"""


def new_home(home: Path) -> Path:
    (home / "dagster").mkdir(parents=True)
    (home / "dagster" / "dagster.yaml").write_text(QUIET_DAGSTER)
    return home


@dataclass
class Ended:
    """How a command ended, what it said, and how many steps each training took; `over` are those that were done."""

    status: int
    said: list[str]
    seconds: float
    cpu_seconds: float
    steps: dict[str, int] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)

    @property
    def last(self) -> str:
        return self.said[-1] if self.said else ""


def run(
    home: Path,
    studies: Path,
    at_stage: Callable[[str], None] = lambda _: None,
    assets: Sequence[str] = (),
    meanwhile: Callable[[int], None] = lambda _: None,
    fold: int = 0,
    said: Path | None = None,
) -> Ended:
    """Run the fold in a child process and tell how it ended; a status below zero is the signal.

    Args:
        home: The workspace.
        studies: The folder of the studies.
        at_stage: Is called in the child before each stage by its name, first with `START`, and where a training is over
            by the stage's name and `TRAINED`.
        assets: Those to materialise; empty for the whole fold.
        meanwhile: Is called here with the child's number while it runs.
        fold: The fold.
        said: Where what it says is kept, without suffix; beside the workspace, unless two run at once.
    """
    place = said or home
    said, steps = place.with_name(f"{place.name}.said"), place.with_name(f"{place.name}.steps")
    for path in (said, steps):
        path.write_text("")
    began = time.monotonic()
    if (pid := os.fork()) == 0:
        _in_child(said, steps, at_stage, lambda: _fold(home, studies, at_stage, assets, fold))
    meanwhile(pid)
    _, ended, used = os.wait4(pid, 0)
    status = os.waitstatus_to_exitcode(ended)
    notes = [json.loads(line) for line in steps.read_text().splitlines()]
    counted = {name: sum(note == [name, "step"] for note in notes) for name, _ in notes}
    over = {name for name, what in notes if what == "over"}
    lines = said.read_text(errors="replace").splitlines()
    return Ended(status, lines, time.monotonic() - began, used.ru_utime + used.ru_stime, counted, over)


def _in_child(said, steps, at_stage, command):
    os.setsid()
    default_signals()
    out = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1), os.dup2(out, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
    train_here(steps, at_stage)
    engine.transient.FIRST_WAIT_S = 0.01
    status = 99
    try:
        run_command(command)
    except SystemExit as ended:
        status = ended.code
    except BaseException:  # noqa: BLE001 # the command hands on nothing else
        traceback.print_exc()
    finally:
        os._exit(status)


def default_signals() -> None:
    """Heed each signal as a command at a terminal does, whoever started this: `nohup` and `&` have some ignored."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def undisturbed(work: Path, studies: Path) -> dict[str, dict[str, str]]:
    """Return the digests of the whole fold made in one go in `work`, where they are kept and found again."""
    kept = work / "undisturbed_results.json"
    if not kept.exists():
        prepare_process()
        home = work / "undisturbed"
        shutil.rmtree(home, ignore_errors=True)
        ended = run(new_home(home), studies)
        assert ended.status == 0, ended.said
        write_json(kept, results(home))
        shutil.rmtree(home)
    return read_json(kept)


def _fold(home, studies, at_stage, assets, fold):
    produce = Forge.produce

    def told(self, context, asset, *arguments, **options):
        at_stage(asset)
        return produce(self, context, asset, *arguments, **options)

    Forge.produce = told
    os.environ["SCARFORGE_HOME"] = str(home)  # the command line takes the workspace from there
    run_command_module.execute = partial(run_command_module.execute, assets=assets)
    at_stage(START)
    run_command_module.run_fold("emidec", studies, "tiny", fold, home, SETTINGS)


def train_here(steps: Path, at_stage: Callable[[str], None]) -> None:
    """Have each network trained in the process that wants it; `steps` notes its steps."""

    def train(_, task):
        (Path(task.folder) / ERROR_FILE).unlink(missing_ok=True)
        asset = Path(task.folder).relative_to(os.environ["SCARFORGE_HOME"]).parts[2]

        def note(what):
            with steps.open("a") as file:
                file.write(json.dumps([asset, what]) + "\n")

        hook = register_optimizer_step_post_hook(lambda *_: note("step"))
        try:
            process.run_task(task)
            note("over")
            at_stage(f"{asset}{TRAINED}")
        except Exception as error:
            code, words = process._verdict(error)
            (Path(task.folder) / ERROR_FILE).write_text(words, encoding="utf-8")
            raise training_run._failure(code, task) from error
        finally:
            hook.remove()

    training_run.run_pipes = train
    Tracker.model = lambda *_, **__: None  # the export of a network takes longer than all the rest


def base(home: Path) -> Path:
    return home / "emidec" / "tiny"


def results(home: Path) -> dict[str, dict[str, str]]:
    """Return the digests of each finished folder's lasting files, and its data version."""
    found = {}
    for record in sorted(base(home).rglob(RECORD)):
        if any(part.startswith(".") for part in record.relative_to(home).parts):
            continue
        place = record.parent
        files = {name: one for name, one in file_digests(place).items() if Path(name).name not in VOLATILE}
        found[place.relative_to(home).as_posix()] = files | {RECORD: read_record(place, place.name).data_version}
    return found


def leftovers(home: Path) -> list[str]:
    """Return what no command ought to leave: halves of files and folders, checkpoints, runs that are open for ever."""
    signs = (".partial", ".old", ".taken", ".unrecorded_", ".untold_")
    halves = [
        path.relative_to(home).as_posix()
        for path in home.rglob("*")
        if any(sign in path.name for sign in signs) or path.name in ("checkpoint", ERROR_FILE)
    ]
    return sorted(halves) + open_runs(home)


def open_runs(home: Path) -> list[str]:
    found = []
    for path, query in (
        (home / "dagster" / "history" / "runs.db", "SELECT run_id, status FROM runs"),
        (home / "mlflow.db", "SELECT name, status FROM runs"),
    ):
        database = sqlite3.connect(path)
        rows = database.execute(query).fetchall()
        database.close()
        closed = {"SUCCESS", "FAILURE", "CANCELED", "FINISHED", "FAILED", "KILLED"}
        found += [f"{path.name}: {name} is {status}" for name, status in rows if status not in closed]
    return found


def write_studies(root: Path) -> Path:
    return root if root.exists() else fake_emidec.write_root(root)


def restore(snapshot: Path, home: Path) -> Path:
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(snapshot, home, symlinks=True)
    return home


def prepare_process(modules: Iterable[str] = ()) -> None:
    """Import here what each command would import; `modules` are those that an earlier one had at last."""
    torch.set_num_threads(1)
    import mlflow
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    import pipeline.definitions  # noqa: F401

    for name in modules:
        with suppress(ImportError):  # a name that another module made up as it was imported
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a child that looks through these objects would copy their memory
