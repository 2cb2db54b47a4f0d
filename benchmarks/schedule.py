"""A simulated schedule: steps of known length with dependencies, on places of two kinds, first come first served.

This is what Dagster does with pools: a step starts as soon as what it reads is there and its pool has a free slot.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Task:
    """One step: how long it takes, which kind of place it needs (`gpu` or `cpu`), and which tasks come before."""

    name: str
    seconds: float
    kind: str
    after: Sequence[str] = ()


@dataclass(frozen=True)
class Schedule:
    """When each task starts, and how long the whole takes."""

    tasks: Mapping[str, Task]
    places: Mapping[str, int]
    starts: Mapping[str, float] = field(default_factory=dict)

    @property
    def makespan_s(self) -> float:
        """Seconds from the first start to the last end."""
        return max(start + self.tasks[name].seconds for name, start in self.starts.items())

    def work_s(self, kind: str) -> float:
        """Seconds of all tasks of a kind together."""
        return sum(task.seconds for task in self.tasks.values() if task.kind == kind)

    def utilisation(self, kind: str) -> float:
        """Return the share of the places' time that is worked in."""
        return self.work_s(kind) / (self.makespan_s * self.places[kind])


def list_schedule(tasks: Sequence[Task], places: Mapping[str, int]) -> Schedule:
    """Start each task as soon as it is ready and a place of its kind is free; of several, the one that waited longest.

    Args:
        tasks: In the order in which equals go first.
        places: How many tasks of each kind run side by side.

    Raises:
        ValueError: A task waits for one that does not exist, for itself, or for a kind without a place.
    """
    named = {task.name: task for task in tasks}
    order = {task.name: number for number, task in enumerate(tasks)}
    waiting = {task.name: set(task.after) for task in tasks}
    ready: dict[str, list[tuple[float, int, str]]] = {kind: [] for kind in places}
    free, starts = dict(places), dict[str, float]()
    running: list[tuple[float, int, str]] = []

    def queue(now: float) -> None:
        for name in [name for name, left in waiting.items() if not left]:
            del waiting[name]
            heapq.heappush(ready[named[name].kind], (now, order[name], name))

    def start(now: float) -> None:
        for kind, line in ready.items():
            while line and free[kind]:
                _, _, name = heapq.heappop(line)
                free[kind] -= 1
                starts[name] = now
                heapq.heappush(running, (now + named[name].seconds, order[name], name))

    if unknown := {task.kind for task in tasks} - {kind for kind, count in places.items() if count > 0}:
        raise ValueError(f"no place for tasks of kind {', '.join(sorted(unknown))}; places are {dict(places)}")
    queue(0.0)
    start(0.0)
    while running:
        now, _, done = heapq.heappop(running)
        free[named[done].kind] += 1
        for left in waiting.values():
            left.discard(done)
        queue(now)
        start(now)
    if waiting:
        raise ValueError(f"these can never start: {', '.join(sorted(waiting))}")
    return Schedule(named, places, starts)


def critical_path_s(tasks: Sequence[Task]) -> float:
    """Return the length of the longest chain of dependencies: no number of places is faster."""
    many = len(tasks)
    return list_schedule(tasks, {task.kind: many for task in tasks}).makespan_s
