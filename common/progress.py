"""What standard error shows: progress for people, one live display on a terminal and plain lines elsewhere.

Whatever works for a command tells how far it is by a line of JSON at the end of a file that the environment names: the
command itself, Dagster's steps in it, whose standard error goes into a log, and the trainings, processes of their own.
The command that opened the display (`shown_live`) reads the file and draws. Without a display there is no such file,
and everything is a plain line on standard error.

Standard error is for our own lines: libraries that announce themselves are asked not to (`quieten`).
"""

import json
import logging
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import Progress


Item = TypeVar("Item")
Lines = Literal["", "quiet", "verbose"]

_CHANNEL, _LINES = "SCARFORGE_PROGRESS", "SCARFORGE_LINES"  # the file; how much is told
_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BETWEEN_STEPS = 0.2
_DRAWN_PER_S = 5
_BAR = 20  # characters


def say(line: str) -> None:
    """Print a line for the person at the terminal; in the UI it appears in the step's compute log."""
    if os.environ.get(_LINES) != "quiet":
        warn(line)


def warn(line: str) -> None:
    """Print a line that matters even to those who want quiet: a study that is left out, say."""
    _tell(line=line)
    _print(line)


def detail(line: str) -> None:
    """Print a line for those who asked for more."""
    if os.environ.get(_LINES) == "verbose":
        warn(line)


def _print(line: str) -> None:
    """Print a plain line, unless that would be across the display; a step's standard error is its log."""
    if not (os.environ.get(_CHANNEL) and sys.stderr.isatty()):
        print(line, file=sys.stderr, flush=True)


def is_live() -> bool:
    """Whether a display shows what is told."""
    return bool(os.environ.get(_CHANNEL))


def expect(count: int, unit: str) -> None:
    """Tell how many `stages`, `cells` or `trials` there will be."""
    _tell(expect=count, unit=unit)


def begin(stage: str) -> None:
    """Tell what is being worked on."""
    _tell(stage=stage)


def finish(unit: str) -> None:
    """Tell that one stage, cell or trial is done."""
    _tell(finished=unit)


def show_figures(figures: Mapping[str, float]) -> None:
    """Tell the last losses and scores of a training."""
    _tell(figures=figures_shown(figures))


def figures_shown(figures: Mapping[str, float]) -> str:
    """Return the losses and the validation Dice among a training's figures; the first four where it has neither."""
    losses = [name for name in figures if "loss" in name][:2]
    dice = [name for name in figures if "dice" in name and "mean" in name] or [n for n in figures if "dice" in n][:2]
    chosen = [*losses, *dice] if losses or dice else list(figures)[:4]
    return ", ".join(f"{name.replace('_', ' ').replace('/', ' ')} {figures[name]:.3g}" for name in chosen)


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield `items`, showing how far along they are.

    Args:
        items: What to go through.
        description: What is being done, such as `augmenting`.
        total: How many items there are, where `items` has no length.
    """
    count = total if total is not None else (len(items) if isinstance(items, Sized) else None)
    start = last_line = last_step = time.monotonic()
    _tell(doing=description, at=0, of=count)
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last_step >= _SECONDS_BETWEEN_STEPS or done == count:
            last_step = now
            _tell(doing=description, at=done, of=count)
        if now - last_line >= _SECONDS_BETWEEN_LINES and os.environ.get(_LINES) != "quiet":
            last_line = now
            _print(f"{description}: {done}{f'/{count}' if count else ''} after {now - start:.0f} s")


def _tell(**event: object) -> None:
    """Add an event to the file; one write of a short line is whole, whoever else writes."""
    if path := os.environ.get(_CHANNEL):
        with open(path, "ab", buffering=0) as file:  # noqa: PTH123 # unbuffered
            file.write(json.dumps(event).encode() + b"\n")


@contextmanager
def shown_live(lines: Lines = "") -> Iterator[None]:
    """Show what is told while the body runs: live on a terminal, as plain lines elsewhere.

    Args:
        lines: `quiet` leaves out all but problems, `verbose` adds every validation round.
    """
    with _in_environment(_LINES, lines):
        if lines == "quiet" or not sys.stderr.isatty() or os.environ.get("TERM", "") in ("", "dumb"):
            yield
            return
        with tempfile.TemporaryDirectory(prefix="scarforge_") as folder:
            channel = Path(folder) / "progress.jsonl"
            channel.touch()
            with _in_environment(_CHANNEL, str(channel)), _Display(channel).running():
                yield


@contextmanager
def _in_environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


class _Display:
    """Reads the events and draws them: what is done, what is running and how far, and its last figures."""

    def __init__(self, channel: Path) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        name, bar, count = TextColumn("  {task.description}"), BarColumn(_BAR), MofNCompleteColumn()
        self._overall = Progress(TextColumn("{task.description}"), bar, count, TimeElapsedColumn())
        self._running = Progress(name, bar, count, TimeRemainingColumn(), TextColumn("left"))
        self._channel, self._unit, self._stage, self._doing, self._figures = channel, "", "", "", ""
        self._over, self._left = threading.Event(), b""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Draw until the body ends; the terminal is this process's own, since steps lead standard error elsewhere."""
        from rich.console import Console
        from rich.live import Live

        with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace") as terminal:
            console = Console(file=terminal, force_terminal=True)
            live = Live(
                console=console,
                get_renderable=self._drawn,
                refresh_per_second=_DRAWN_PER_S,
                transient=True,
                redirect_stdout=False,  # a step's own lines go into its log, and here as events
                redirect_stderr=False,
            )
            reader = threading.Thread(target=self._read, args=(live,), name="progress", daemon=True)
            try:
                with live:
                    console.show_cursor(True)  # a process that is killed leaves the terminal as it was
                    reader.start()
                    yield
            finally:
                self._over.set()
                reader.join()
                self._print_rest(console)

    def _drawn(self) -> "Group":
        from rich.console import Group
        from rich.text import Text

        lines = [Text(f"  {line}", no_wrap=True, overflow="ellipsis") for line in (self._stage, self._figures) if line]
        stage, figures = lines[:1] if self._stage else [], lines[-1:] if self._figures else []
        return Group(self._overall, *stage, self._running, *figures)

    def _read(self, live: "Live") -> None:
        with self._channel.open("rb") as events:
            while not self._over.is_set():
                for line in iter(events.readline, b""):
                    self._take(json.loads(line), live.console)
                self._over.wait(1 / _DRAWN_PER_S / 2)
            self._left = events.read()

    def _print_rest(self, console: "Console") -> None:
        for line in self._left.splitlines():
            self._take(json.loads(line), console)

    def _take(self, event: Mapping[str, Any], console: "Console") -> None:
        if "line" in event:
            console.print(event["line"], highlight=False, markup=False, soft_wrap=True)
        elif "expect" in event:
            self._unit = event["unit"]
            _only(self._overall, self._unit, event["expect"])
        elif "finished" in event:
            for task in self._overall.task_ids if event["finished"] == self._unit else ():
                self._overall.advance(task)
            self._end_part("")
        elif "stage" in event:
            self._end_part(event["stage"])
        elif "doing" in event:
            self._move(event)
        elif "figures" in event:
            self._figures = event["figures"]

    def _move(self, event: Mapping[str, Any]) -> None:
        if event["doing"] != self._doing or event["at"] == 0:
            self._doing = event["doing"]
            _only(self._running, self._doing, event["of"])
        for task in self._running.task_ids:
            self._running.update(task, completed=event["at"])

    def _end_part(self, stage: str) -> None:
        self._stage, self._figures, self._doing = stage, "", ""
        for task in self._running.task_ids:
            self._running.remove_task(task)


def _only(progress: "Progress", name: str, total: int | None) -> None:
    for task in progress.task_ids:
        progress.remove_task(task)
    progress.add_task(name, total=total)


DEBUG = "SCARFORGE_DEBUG"
_WARNINGS, _FAULTS = "py.warnings", "common.guard"


def quieten() -> None:
    """Silence announcements, progress bars and warnings of libraries. Call it first.

    Warnings go to the logger that Python has for them, where they can be seen with `SCARFORGE_DEBUG=1`, as can the
    tracebacks of what the guard around each study caught.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    warnings.filterwarnings("ignore", message="Parameter `include_sources` of function `AssetSelection.all`")
    logging.captureWarnings(True)
    logging.getLogger(_WARNINGS).propagate = False
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it would tell of a home that cannot be written
    if os.environ.get(DEBUG, "") not in ("", "0"):
        for name in (_WARNINGS, _FAULTS):
            log = logging.getLogger(name)
            log.addHandler(logging.StreamHandler())
            log.setLevel(logging.DEBUG)
