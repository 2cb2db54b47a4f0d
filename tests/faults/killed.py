"""The real command, with its training processes, is ended again and again until it has made a whole fold.

    python -m tests.faults.killed --work /tmp/killed            again with --go-on where it was stopped

Each time it is ended at another moment: as a stage begins, between the end of a training and its sealing, while results
are published. Nothing of it may outlive it, nothing may be trained twice, and the files have to be those of a fold
that nobody disturbed (`tests.faults.miniature`), to the byte.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from common.files import read_json, write_json
from tests.faults import miniature
from tests.faults.sweep import _differing

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
PATIENCE_S, GONE_S = 1800.0, 30.0
TRIES, MISSED = 3, "missed, "
MOMENTS = {
    "studies are being written": ".studies.*.partial/.studies.h5.*",
    "the localiser trains": "lv_localiser/.fold_0.*.partial/checkpoint/last.pt",
    "the localiser is trained": "lv_localiser/.fold_0.*.partial/training_result.json",
    "slices are being cut": "real_slices/.fold_0.*.partial",
    "Pix2Pix trains": "pix2pix/.fold_0.*.partial/checkpoint/last.pt",
    "Pix2Pix is trained": "pix2pix/.fold_0.*.partial/training_result.json",
    "a segmenter's model is sent": "attention_res_unet_real_only/fold_0/.seed_0.*.partial/training_result.json",
    "a segmenter's folder is sealed": "halsr_net_real_only/fold_0/.seed_0.*.partial/record.json",
    "scores are being made": "attention_res_unet_real_plus_gan_scores/fold_0/.seed_0.*.partial",
    "champions are crowned": "champions/fold_0/*.json",
    "the comparison is being made": ".comparison.*.partial",
}


def command(home: Path, studies: Path) -> list[str]:
    """Return the command line of the fold."""
    line = [str(Path(sys.executable).with_name("scarforge")), "run", "--source", "emidec", "--root", str(studies)]
    return [*line, "--profile", "tiny", *(part for one in miniature.SETTINGS for part in ("--set", one))]


def start(home: Path, studies: Path, said: Path) -> psutil.Popen:
    """Start the command with a group of its own, as a shell does."""
    environment = os.environ | {"SCARFORGE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with said.open("w") as file:
        return psutil.Popen(
            command(home, studies),
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=miniature.default_signals,
        )


def end_at(process: psutil.Popen, home: Path, pattern: str, number: signal.Signals, wait_s: float) -> list[str] | None:
    """Send a signal when a file is there; return what is wrong then, None where the command ended before."""
    until = time.monotonic() + PATIENCE_S
    there = set(miniature.base(home).glob(pattern))
    while process.poll() is None and time.monotonic() < until and not set(miniature.base(home).glob(pattern)) - there:
        time.sleep(0.001)
    if process.poll() is not None:
        return None
    time.sleep(wait_s)
    helpers = process.children(recursive=True)
    began = time.monotonic()
    process.send_signal(number)
    status = process.wait(GONE_S)
    _, left = psutil.wait_procs(helpers, GONE_S - (time.monotonic() - began))
    left = [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    wanted = -number if number == signal.SIGKILL else 128 + number
    wrong = [f"outlived it: {one.cmdline()}" for one in left]
    return wrong + ([] if status == wanted else [f"ended with {status}, not {wanted}"])


def try_moment(home: Path, studies: Path, said: Path, pattern: str, sent: signal.Signals, wait_s: float) -> list[str]:
    """Run the command until it is ended at one moment; return how it ended, and what was wrong."""
    process = start(home, studies, said)
    try:
        found = end_at(process, home, pattern, sent, wait_s)
    finally:
        for one in (*process.children(recursive=True), process) if process.is_running() else ():
            one.kill()
    if found is None and process.returncode:
        found = [f"ended by itself with {process.returncode}"]
    missed = MISSED if found is None else ""
    traced = ["a traceback"] if "Traceback" in said.read_text(errors="replace") else []
    return [f"{missed}status {process.returncode}", *(found or []), *traced]


def try_until_met(home: Path, *moment: Any) -> list[str]:
    """Try a moment up to `TRIES` times, each from the workspace as it was: a command that ended has none left."""
    before = home.with_name("before")
    shutil.rmtree(before, ignore_errors=True)
    if home.exists():
        shutil.copytree(home, before, symlinks=True)
    for _ in range(TRIES):
        told = try_moment(home, *moment)
        if not told[0].startswith(MISSED):
            break
        shutil.rmtree(home)
        if before.exists():
            shutil.copytree(before, home, symlinks=True)
    return told


def finish(home: Path, studies: Path, said: Path, whole: dict[str, dict[str, str]]) -> list[str]:
    """Run the command to its end; return what differs from a fold that nobody disturbed."""
    process = start(home, studies, said)
    ended = [f"ended with {process.returncode}"] if process.wait(PATIENCE_S) else []
    left = [f"left: {name}" for name in miniature.leftovers(home)]
    found = miniature.results(home)
    return ended + left + ([] if found == whole else [f"other bytes: {_differing(found, whole)}"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--undisturbed", type=Path, help="what `tests.faults.sweep --work` has kept; default: made")
    parser.add_argument("--go-on", action="store_true", help="keep the workspace and the moments of an earlier run")
    return parser.parse_args()


def main() -> None:
    """Run it, and end with 1 where something is wrong."""
    options = _arguments()
    work = options.work or Path(tempfile.mkdtemp(prefix="scarforge_killed_"))
    home, studies, noted = work / "home", miniature.write_studies(work / "studies"), work / "moments.json"
    if not options.go_on:
        shutil.rmtree(home, ignore_errors=True)
        noted.unlink(missing_ok=True)
    given = options.undisturbed
    whole = json.loads(given.read_text())[1] if given else miniature.undisturbed(work, studies)
    tried = read_json(noted) if noted.exists() else {}
    for number, (moment, pattern) in enumerate(MOMENTS.items()):
        sent, chance = SIGNALS[(number + options.seed) % len(SIGNALS)], random.Random(f"{options.seed}/{number}")
        if moment not in tried:
            said = work / f"said_{number}"
            tried[moment] = try_until_met(home, studies, said, pattern, sent, chance.choice((0, 0.05, 0.3, 1)))
            write_json(noted, tried)
            if tried[moment][1:]:
                print(said.read_text(errors="replace"), flush=True)
        ended, *wrong = tried[moment]
        print(f"{moment}, {sent.name}: {ended}, {wrong or 'nothing wrong'}", flush=True)
    wrong = finish(home, studies, work / "said_last", whole)
    print(f"at last: {wrong or 'nothing wrong'}")
    sys.exit(bool(wrong or any(one[1:] for one in tried.values())))


if __name__ == "__main__":
    main()
