"""Every failure once: calls that fail, and kills, drawn over the stages of the miniature fold, and what became of them.

    make faults                  300 faults and 60 kills over all stages, and the table of docs/faults.md
    python -m tests.faults.sweep --samples 20 --kills 4 --until real_slices

A sample starts from the workspace as it was before its stage, makes that stage with one fault, and makes it again
without. Then the stage's files must be those of an undisturbed run, to the byte.
"""

import argparse
import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from common.files import write_text
from tests.faults.plan import (
    BIG_ALLOCATION,
    END,
    ERRORS,
    FROM_THERE_ON,
    KILL,
    KINDS,
    ONCE,
    OWNERS,
    TRAINED,
    build_shim,
    shared_plan,
)

MADE_WITH = {"champions": "champion"}  # what lies beside the assets' folders
MODULES = "modules.json"  # those of a command in the undisturbed fold
RUN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{12,32}")
SIGNALS = ("SIGHUP", "SIGINT", "SIGTERM")
FAILING = ("open", "write", "fsync", "rename", "mkdir", "memory")
EVERY_FILE = sum(number for kind, number in KINDS.items() if kind != "memory")
BEGIN_TABLE, END_TABLE = "<!-- made by `make faults` -->", "<!-- end -->"
WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
MEMORY = Path("/dev/shm")  # flushing to it takes no time


@dataclass
class Sample:
    """One fault: at the n-th call of a kind within a stage; `error` is the error's name, or the signal's for a kill."""

    stage: str
    kind: str
    owner: str  # of the file; empty for all
    at: int
    error: str
    calls: int = 0  # of this kind and owner, in an undisturbed fold
    lasting: bool = False
    struck: str = ""
    status: int = 0
    said: str = ""
    wrong: list[str] = field(default_factory=list)

    @property
    def ended_by(self) -> int:
        """The status of a command that a signal ends."""
        number = int(getattr(signal, self.error))
        return -number if number == signal.SIGKILL else 128 + number

    @property
    def what(self) -> str:
        if self.kind == "damage":
            return "a file with a bit flipped" if self.error == "flip" else "a file cut short"
        if self.kind == "kill":
            return f"{self.error} at the n-th call{' after a training' if self.stage.endswith(TRAINED) else ''}"
        if self.lasting:
            return "the disk is full from the n-th `write` on"
        if self.kind == "memory":
            return f"the n-th allocation of {BIG_ALLOCATION >> 10} KiB and more fails"
        return f"the n-th `{self.kind}` fails"


class Sweep:
    """The undisturbed fold with the workspace before each of its stages, and samples against it."""

    def __init__(self, work: Path, until: str) -> None:
        from tests.faults import miniature

        self.fold, self.work, self.plan = miniature, work, shared_plan()
        miniature.prepare_process()
        self.home, self.studies = work / "home", miniature.write_studies(work / "studies")
        self.assets = up_to(until)
        self.notes, kept = work / "stages.json", work / "undisturbed.json"
        if not kept.exists():
            for place in (self.home, work / "before"):  # of a run that was stopped before it was whole
                shutil.rmtree(place, ignore_errors=True)
            write_text(kept, json.dumps(self._run_undisturbed()))
        self.calls, self.whole, self.steps = json.loads(kept.read_text())
        miniature.prepare_process(json.loads((work / MODULES).read_text()))

    def _run_undisturbed(self) -> list[dict[str, Any]]:
        self.fold.new_home(self.home)
        self.plan.set_to(self.home, KINDS["memory"])
        counts: list[tuple[str, dict[str, int]]] = []

        def at_stage(name: str) -> None:
            self.plan.armed = 0
            if name not in [known for known, _ in counts]:
                counts.append((name, self.plan.counts()))
                self.notes.write_text(json.dumps(counts))
                (self.work / MODULES).write_text(json.dumps(sorted(sys.modules)))
            if not name.endswith(TRAINED):
                shutil.copytree(self.home, self.work / "before" / name, symlinks=True)
            self.plan.armed = 1

        ended = self.fold.run(self.home, self.studies, at_stage, self.assets)
        assert ended.status == 0, ended.said
        counts = [*json.loads(self.notes.read_text()), ("", self.plan.counts())]
        shutil.copytree(self.home, self.work / "before" / END, symlinks=True)
        calls = {
            name: {call: after[call] - before[call] for call in after}
            for (name, before), (_, after) in pairwise(counts)
        }
        assert not self.fold.leftovers(self.home), self.fold.leftovers(self.home)
        calls[END] = {f"damage/{owner}": number for owner, number in Counter(map(_owner, self._files())).items()}
        return [calls, self.fold.results(self.home), ended.steps]

    def draw(self, samples: int, kills: int, signals: int, damages: int, seed: int = 0) -> list[Sample]:
        """Draw faults so that each stage has some of each kind, and kills and signals so that each stage has some."""
        chance, drawn, stages = random.Random(seed), [], [stage for stage in self.calls if stage != END]
        strata = [(stage, call) for stage in stages for call, n in self.calls[stage].items() if n and _fails(call)]
        chance.shuffle(strata)
        for number in range(samples):
            stage, call = strata[number % len(strata)]
            kind, owner = call.split("/")
            code = chance.choice(ERRORS[kind])
            at, full = 1 + chance.randrange(self.calls[stage][call]), code == errno.ENOSPC and kind == "write"
            drawn.append(Sample(stage, kind, owner, at, errno.errorcode[code], self._calls(call), full))
        for number in range(kills + signals):
            stage, signal_ = stages[number % len(stages)], "SIGKILL" if number < kills else chance.choice(SIGNALS)
            owner = "a result" if number % 2 else ""
            total = sum(n for call, n in self.calls[stage].items() if owner in call and _is_of_files(call))
            everywhere = sum(self._calls(call) for call in self.calls[stage] if owner in call and _is_of_files(call))
            drawn.append(Sample(stage, "kill", owner, 1 + chance.randrange(max(1, total)), signal_, everywhere))
        for number, path in enumerate(self._one_of_each_kind(chance, damages)):
            size = (self.work / "before" / END / path).stat().st_size
            how, calls = ("flip", "cut")[number % 2], self._calls(f"damage/{_owner(path)}")
            drawn.append(Sample(END, "damage", _owner(path), chance.randrange(size), how, calls, struck=path))
        chance.shuffle(drawn)  # a run that is stopped early has tried some of each
        return drawn

    def _files(self) -> list[str]:
        whole = self.work / "before" / END
        found = (path for path in sorted(whole.rglob("*")) if path.is_file() and path.stat().st_size)
        return [path.relative_to(whole).as_posix() for path in found if path.suffix != ".lock"]

    def _one_of_each_kind(self, chance: random.Random, number: int) -> list[str]:
        """Draw files so that each kind of file is there as often as any other; those of one name are of one kind."""
        kinds: dict[str, list[str]] = {}
        for path in self._files():
            stage = path.split("/")[2] if path.startswith(self.fold.base(Path()).as_posix()) else path.split("/")[0]
            kinds.setdefault(f"{stage}/{RUN_ID.sub('', Path(path).name)}", []).append(path)
        drawn = [chance.choice(paths) for paths in kinds.values() for _ in range(2)]
        return drawn[:number] if number < len(drawn) else drawn

    def _calls(self, call: str) -> int:
        return sum(calls.get(call, 0) for calls in self.calls.values())

    def try_out(self, sample: Sample) -> Sample:
        """Try one fault; note what it led to."""
        return self._damage(sample) if sample.kind == "damage" else self._strike(sample)

    def _damage(self, sample: Sample) -> Sample:
        """Run the finished fold's stage of a damaged file: it is made again or told; once restored all is as it was."""
        stage = sample.struck.removeprefix(f"{self.fold.base(Path()).as_posix()}/").split("/")[0]
        assets = [stage if stage in self.calls else MADE_WITH.get(stage, "studies")]
        whole = self.work / "before" / END / sample.struck
        self.fold.restore(self.work / "before" / END, self.home)
        content = bytearray(whole.read_bytes())
        if sample.error == "flip":
            content[sample.at] ^= 1 << sample.at % 8
        else:
            del content[sample.at :]
        (self.home / sample.struck).write_bytes(content)
        first = self.fold.run(self.home, self.studies, assets=assets)
        sample.status, sample.said = first.status, first.last
        sample.wrong = self._wrong_at_first(sample, first)
        again = first
        if first.status:
            shutil.copy2(whole, self.home / sample.struck)
            again = self.fold.run(self.home, self.studies, assets=assets)
        if again.status:
            sample.wrong.append(f"again: ended with {again.status}")
        if (found := self.fold.results(self.home)) != self.whole:
            sample.wrong.append(f"other bytes: {_differing(found, self.whole)}")
        kept = ".unrecorded_"  # what lies beside a record that tells nothing may be the user's own
        sample.wrong += [f"left: {name}" for name in self.fold.leftovers(self.home) if kept not in name]
        if sample.wrong:
            sample.wrong.append("\n".join(["first:", *first.said, "again:", *again.said]))
        return sample

    def _strike(self, sample: Sample) -> Sample:
        """Make the stage with the fault, then without, and note what is wrong then."""
        before = sample.stage.removesuffix(TRAINED)
        asset = "studies" if before == self.fold.START else before
        self.fold.restore(self.work / "before" / before, self.home)
        kinds = EVERY_FILE if sample.kind == "kill" else KINDS[sample.kind]
        mode = KILL if sample.kind == "kill" else FROM_THERE_ON if sample.lasting else ONCE
        code = int(getattr(signal if sample.kind == "kill" else errno, sample.error))
        owner = OWNERS.index(sample.owner) if sample.owner else -1
        self.plan.set_to(self.home, kinds, owner, sample.at, mode, code)

        def at_stage(name: str) -> None:
            self.plan.armed = int(name in (sample.stage, f"{sample.stage}{TRAINED}"))

        first = self.fold.run(self.home, self.studies, at_stage, [asset])
        self.plan.armed = 0
        place = self.plan.path.decode(errors="replace").removeprefix(str(self.home))
        sample.struck = (place or "/") if self.plan.struck else ""
        sample.status, sample.said = first.status, first.last
        sample.wrong = self._wrong_at_first(sample, first)
        again = self.fold.run(self.home, self.studies, assets=[asset])
        sample.wrong += self._wrong_afterwards(asset, first, again)
        if sample.wrong:
            sample.wrong.append("\n".join(["first:", *first.said, "again:", *again.said]))
        return sample

    def _wrong_at_first(self, sample, first) -> list[str]:
        told = [line for line in first.said if line.startswith("scarforge: ")]
        traced = any("Traceback" in line for line in first.said)
        if sample.kind == "kill" and first.status == sample.ended_by:
            return [f"ended with {first.status} and {len(told)} lines"] if traced or len(told) > 1 else []
        if first.status == 0:
            return []
        if first.status != 2 or len(told) != 1 or traced:
            return [f"ended with {first.status} and {len(told)} lines"]
        named = "/" in told[0] or "database" in told[0] or sample.kind == "memory"
        return [] if named and ";" in told[0] else [f"tells no file and remedy: {told[0]}"]

    def _wrong_afterwards(self, asset, first, again) -> list[str]:
        if again.status:
            return [f"again: ended with {again.status}"]
        place = f"{self.fold.base(self.home).relative_to(self.home)}/{asset}"
        found, whole = (
            {name: files for name, files in one.items() if name.split("/")[2] == asset}
            for one in (self.fold.results(self.home), self.whole)
        )
        wrong = [] if found == whole else [f"other bytes in {place}: {_differing(found, whole)}"]
        wrong += [f"left: {name}" for name in self.fold.leftovers(self.home)]
        steps = {name: first.steps.get(name, 0) + again.steps.get(name, 0) for name in (*first.steps, *again.steps)}
        for name, taken in steps.items():
            per_step = self.steps[name] // self.fold.STEPS
            if taken > self.steps[name] + per_step or (name in first.over and again.steps.get(name)):
                wrong.append(f"{name}: trained again, {taken} steps instead of {self.steps[name]}")
        return wrong


def _owner(path: str) -> str:
    return {"dagster": "Dagster", "mlflow": "MLflow", "mlflow_artifacts": "MLflow"}.get(
        path.split("/")[0].split(".")[0], "a result"
    )


def _fails(call: str) -> bool:
    return call.split("/")[0] in FAILING


def _is_of_files(call: str) -> bool:
    return not call.startswith(("memory", "damage"))


def _differing(found, whole):
    return sorted(
        f"{place}/{name}"
        for place in found.keys() | whole.keys()
        for name in found.get(place, {}).keys() | whole.get(place, {}).keys()
        if found.get(place, {}).get(name) != whole.get(place, {}).get(name)
    )


def up_to(until: str) -> list[str]:
    """Return the first stages, up to one of the real-only chain; none, for the whole fold, where none is named."""
    chain = ["studies", "patient_split", "lv_localiser", "real_slices", "augmented_slices", "training_set_real_only"]
    return chain[: chain.index(until) + 1] if until else []


def table(samples: list[Sample]) -> str:
    """Return the table of docs/faults.md: what, how often, how the command ended, and what was lost by that."""
    heads = (
        "what",
        "calls in a fold",
        "tried",
        "met",
        "went on",
        "one line, status 2",
        "killed by it",
        "told unclearly",
        "lost",
    )
    rows = [f"| {' | '.join(heads)} |", f"|---{'|--:' * (len(heads) - 1)}|"]
    for what in sorted({(FAILING.index(s.kind) if s.kind in FAILING else 9, s.what, s.owner) for s in samples}):
        of = [sample for sample in samples if (sample.what, sample.owner) == what[1:]]
        ends, met = Counter(sample.status for sample in of), sum(bool(sample.struck) for sample in of)
        of_whom = f", {what[2]}" if what[2] and of[0].kind != "memory" else ""
        numbers = (
            of[0].calls,
            len(of),
            met,
            ends[0],
            ends[2],
            _killed(of),
            *_wrong(of),
        )
        rows.append(f"| {what[1]}{of_whom} | {' | '.join(map(str, numbers))} |")
    return "\n".join(rows)


def _killed(samples: list[Sample]) -> int:
    return sum(sample.kind == "kill" and sample.status == sample.ended_by for sample in samples)


def _wrong(samples: list[Sample]) -> tuple[int, int]:
    """Return how many commands told a fault without file and remedy, and after how many something was lost."""
    unclear = [any(one.startswith(("tells", "ended")) for one in sample.wrong) for sample in samples]
    return sum(unclear), sum(len(sample.wrong) > 1 + told for sample, told in zip(samples, unclear, strict=True))


def write_docs(page: Path, samples: list[Sample]) -> None:
    """Put the table between the two marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN_TABLE)
    _, _, after = rest.partition(END_TABLE)
    page.write_text(f"{before}{BEGIN_TABLE}\n{table(samples)}\n{END_TABLE}{after}", encoding="utf-8")


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--signals", type=int, default=20, help="SIGHUP, SIGINT and SIGTERM")
    parser.add_argument("--damages", type=int, default=120, help="files that are changed in a bit or cut short")
    parser.add_argument("--until", default="", help="the last stage; default: the whole fold")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no sample after this many")
    parser.add_argument("--docs", type=Path, help="write the table into this page")
    parser.add_argument("--work", type=Path, help="keeps the undisturbed fold there, and finds it again")
    parser.add_argument("--verbose", action="store_true", help="a line a sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--found", type=Path, default=Path("build/faults.json"), help="what became of each")
    parser.add_argument("--go-on", action="store_true", help="keep what an earlier run of --work found right")
    return parser.parse_args()


def main() -> None:
    """Run the sweep under the shim, print the table, and end with 1 where something is wrong."""
    if "shim.so" not in os.environ.get("LD_PRELOAD", ""):
        kept = _arguments().work
        folder = kept or Path(tempfile.mkdtemp(prefix="scarforge_faults_", dir=MEMORY if MEMORY.is_dir() else None))
        folder.mkdir(parents=True, exist_ok=True)
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "NO_ALBUMENTATIONS_UPDATE": "1", "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **quiet, "LD_PRELOAD": str(build_shim(folder)), "SCARFORGE_FAULTS_IN": str(folder)}
        status = subprocess.run([sys.executable, "-m", "tests.faults.sweep", *sys.argv[1:]], env=environment).returncode
        if not kept:
            shutil.rmtree(folder)
        sys.exit(status)
    options, began = _arguments(), time.monotonic()
    sweep = Sweep(Path(os.environ["SCARFORGE_FAULTS_IN"]), options.until)
    print(f"undisturbed: {time.monotonic() - began:.0f} s, calls: {_calls(sweep.calls)}", flush=True)
    found = json.loads(options.found.read_text()) if options.go_on and options.found.exists() else []
    right = {_place(one): one for one in (Sample(**one) for one in found) if not one.wrong}
    done = []
    options.found.parent.mkdir(parents=True, exist_ok=True)
    for sample in sweep.draw(options.samples, options.kills, options.signals, options.damages, options.seed):
        if _place(sample) in right:
            done.append(right[_place(sample)])
            continue
        if time.monotonic() - began > options.seconds:
            continue
        done.append(sweep.try_out(sample))
        spent = f"{time.monotonic() - began:.0f} s"
        what = f"{sample.stage}: {sample.what}, n = {sample.at} ({sample.owner} {sample.error} {sample.struck})"
        if options.verbose:
            print(f"{what}: {sample.status}, {spent}", flush=True)
        if sample.wrong:
            print("\n".join([f"WRONG {what}", *sample.wrong]), flush=True)
        write_text(options.found, json.dumps([asdict(one) for one in done], indent=1))
    print(table(done))
    if options.docs:
        write_docs(options.docs, done)
    cpu = sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in WHO)
    print(f"{len(done)} samples, {time.monotonic() - began:.0f} s, {cpu:.0f} s of one processor")
    sys.stdout.flush()
    os._exit(int(any(sample.wrong for sample in done)))  # libraries end badly under the shim


def _place(sample: Sample) -> tuple[object, ...]:
    file = sample.struck if sample.kind == "damage" else ""
    return file, sample.stage, sample.kind, sample.owner, sample.at, sample.error, sample.lasting


def _calls(calls):
    totals = Counter()
    for stage in calls.values():
        totals.update({call: number for call, number in stage.items() if number})
    return dict(totals)


if __name__ == "__main__":
    main()
