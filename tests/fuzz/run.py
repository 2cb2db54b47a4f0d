"""Hostile input: reads changed files with one reader after another, and keeps whatever one does not end in a line.

    python -m tests.fuzz.run nifti --inputs 200000 --seconds 1200
    python -m tests.fuzz.run --all

Each reader works in a process of its own, which must stay below 1 GB and may spend 10 s on an input. Where Atheris can
be imported it chooses the changes by what they reach; else they are drawn.
"""

import argparse
import importlib.util
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from common.errors import InputError
from tests.fuzz.targets import TARGETS, Target

SECONDS_AN_INPUT, MOST_MEGABYTES = 10, 1024
CORPUS = Path(__file__).with_name("corpus")
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)


class HangError(BaseException):
    """An input used the processor for longer than it may; no reader may catch it."""


def limit_time() -> None:
    """Let an input that has used the processor for too long end."""
    signal.signal(signal.SIGPROF, _hangs)


def seeds_of(target: Target) -> list[bytes]:
    """Return the sound files of a target, opened, and its corpus."""
    found = []
    for write in target.seeds:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, target.name)
            write(path)
            found.append(target.opened(path.read_bytes()))
    name = next(name for name, one in TARGETS.items() if one is target)
    return [*found, *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]


def changed(content: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """Return a content with one to eight changes."""
    found = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(found) + 1)
        match chance.randrange(7):
            case 0 if found:
                found[at % len(found)] ^= 1 << chance.randrange(8)
            case 1:
                size = chance.choice((1, 2, 4, 8))
                number = chance.choice(_NUMBERS) & (256**size - 1)
                found[at : at + size] = number.to_bytes(size, chance.choice(("little", "big")))
            case 2:
                del found[at : at + chance.choice((1, 4, 64, len(found)))]
            case 3:
                found[at:at] = chance.randbytes(chance.choice((1, 2, 8, 200)))
            case 4:
                begin = chance.randrange(len(found) + 1)
                found[at:at] = found[begin : begin + chance.choice((4, 32, 300))]
            case 5:
                other = chance.choice(others)
                begin = chance.randrange(len(other) + 1)
                found[at : at + 40] = other[begin : begin + 40]
            case _:
                found[at : at + 1] = chance.choice((b"[" * 3000, b"-", b"9" * 5000, b"nan", b"\xff\xfe", b"*b", b"\n"))
    return bytes(found)


def most_megabytes() -> float:
    """Return the most memory that this process has held; `ru_maxrss` would begin with that of the one that made it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return float(line.split()[1]) / 1024


def read_one(target: Target, path: Path, content: bytes) -> str:
    """Let a reader read a content; return what is wrong with how it ended, or nothing."""
    path.write_bytes(target.sealed(content))
    signal.setitimer(signal.ITIMER_PROF, SECONDS_AN_INPUT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(path)
    except InputError as error:
        told = str(error)
        return "" if "\n" not in told and len(told) < 4000 else f"told in {len(told)} letters: {told[:300]!r}"
    except HangError:
        return f"took longer than {SECONDS_AN_INPUT} s"
    except Exception as error:  # noqa: BLE001 # whatever it is, it is found
        import traceback

        frames = traceback.extract_tb(error.__traceback__)
        way = " < ".join(f"{frame.name}:{frame.lineno}" for frame in frames[:-7:-1])
        return f"{type(error).__name__}: {str(error)[:200]} at {way}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ""


def work(name: str, inputs: int, seconds: float, seed: int, kept: Path) -> int:
    """Read changed contents until there were enough; tell how many, and keep one input of each fault."""
    target, chance = TARGETS[name], random.Random(seed)
    limit_time()
    began, found, done = time.monotonic(), {}, 0
    seeds = seeds_of(target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, target.name)
        path.with_name("scratch").mkdir()
        for number in range(inputs):
            if time.monotonic() - began > seconds:
                break
            content = seeds[number] if number < len(seeds) else changed(chance.choice(seeds), chance, seeds)
            (kept / f"{name}.last").write_bytes(content)
            wrong = read_one(target, path, content)
            done += 1
            if wrong and _kind(wrong) not in found:
                found[_kind(wrong)] = wrong
                (kept / f"{name}.{len(found)}").write_bytes(content)
                print(f"{name}: {wrong}", flush=True)
    megabytes = most_megabytes()
    if megabytes > MOST_MEGABYTES:
        print(f"{name}: took {megabytes:.0f} MB")
        found["memory"] = ""
    print(
        f"{name}: {done} inputs, {time.monotonic() - began:.0f} s, {megabytes:.0f} MB, {len(found)} faults", flush=True
    )
    return int(bool(found))


def _kind(wrong):
    return wrong.split(" at ")[-1] if " at " in wrong else wrong[:30]


def _hangs(*_):
    raise HangError


def by_coverage(name: str, inputs: int, seconds: float, seed: int, kept: Path) -> int:
    """Let Atheris choose the changes; what it keeps goes into the corpus."""
    import atheris

    with atheris.instrument_imports(
        include=["imaging", "runtime", "common", "engine", "segmentation", "nibabel", "pydicom", "PIL"]
    ):
        target = TARGETS[name]
        for write in target.seeds:
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder, target.name))
                target.read(Path(folder, target.name))
    grown, folder = kept / f"{name}_corpus", tempfile.mkdtemp()
    grown.mkdir(exist_ok=True)
    for number, content in enumerate(seeds_of(target)):
        (grown / f"seed_{number}").write_bytes(content)
    limit_time()
    path = Path(folder, target.name)

    def once(content):
        wrong = read_one(target, path, content)
        if wrong:
            raise RuntimeError(wrong)

    limits = [
        f"-runs={inputs}",
        f"-max_total_time={int(seconds)}",
        f"-rss_limit_mb={MOST_MEGABYTES}",
        f"-seed={seed + 1}",
    ]
    where = [f"-artifact_prefix={kept}/{name}.", "-timeout=20", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *limits, *where, str(grown)], once)
    atheris.Fuzz()
    return 0


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=1200, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drawn", action="store_true", help="draw the changes though Atheris is there")
    parser.add_argument("--kept", type=Path, default=Path("build/fuzz"), help="where inputs that went wrong are kept")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Give each target a process, and tell which of them ended otherwise than well."""
    options = _arguments()
    options.kept.mkdir(parents=True, exist_ok=True)
    if options.here:
        guided = importlib.util.find_spec("atheris") is not None and not options.drawn
        (name,) = options.targets
        sys.exit((by_coverage if guided else work)(name, options.inputs, options.seconds, options.seed, options.kept))
    failed = []
    for name in TARGETS if options.all else options.targets:
        line = [sys.executable, "-m", "tests.fuzz.run", name, "--here", *_passed(options)]
        ended = subprocess.run(line, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode
        if ended:
            failed.append(f"{name} ({ended}; its last input is {options.kept / name}.last)")
    if failed:
        sys.exit(f"went wrong: {', '.join(failed)}")


def _passed(options):
    given = {"--inputs": options.inputs, "--seconds": options.seconds, "--seed": options.seed, "--kept": options.kept}
    return [*(str(one) for pair in given.items() for one in pair), *(["--drawn"] if options.drawn else [])]


if __name__ == "__main__":
    main()
