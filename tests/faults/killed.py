"""The real command, with its training processes, is ended again and again until it has made a whole fold.

    python -m tests.faults.killed --work /tmp/killed

Each time it is ended at another moment: as a stage begins, between the end of a training and its sealing, while results
are published. Nothing of it may outlive it, nothing may be trained twice, and the files have to be those of a fold
that nobody disturbed (`tests.faults.miniature`), to the byte.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.faults import miniature
from tests.faults.sweep import _differing

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
PATIENCE_S, GONE_S = 1800.0, 30.0
MOMENTS = {
    "studies are being written": ".studies.*.partial/.studies.h5.*",
    "the localiser trains": "lv_localiser/.fold_0.*.partial/checkpoint/last.pt",
    "the localiser is trained": "lv_localiser/.fold_0.*.partial/training_result.json",
    "slices are being cut": "real_slices/.fold_0.*.partial",
    "Pix2Pix trains": "pix2pix/.fold_0.*.partial/checkpoint/last.pt",
    "Pix2Pix is trained": "pix2pix/.fold_0.*.partial/training_result.json",
    "a segmenter's model is sent": "attention_res_unet_real_only/fold_0/.seed_0.*.partial/training_result.json",
    "a segmenter's folder is sealed": "halsr_net_real_only/fold_0/.seed_0.*.partial/record.json",
    "scores are written": "attention_res_unet_real_plus_gan_scores/fold_0/.seed_0.*.partial/scores.csv",
    "champions are crowned": "champions/fold_0/*.json",
    "the comparison is written": ".comparison.*.partial/differences.csv",
}


def command(home: Path, studies: Path) -> list[str]:
    """Return the command line of the fold."""
    line = [str(Path(sys.executable).with_name("scarforge")), "run", "--source", "emidec", "--root", str(studies)]
    return [*line, "--profile", "tiny", *(part for one in miniature.SETTINGS for part in ("--set", one))]


def start(home: Path, studies: Path, said: Path) -> psutil.Popen:
    """Start the command with a group of its own, as a shell does."""
    environment = os.environ | {"SCARFORGE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with said.open("w") as file:
        line = command(home, studies)
        return psutil.Popen(line, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def end_at(process: psutil.Popen, home: Path, pattern: str, number: signal.Signals, wait_s: float) -> list[str] | None:
    """Send a signal when a file is there; return what is wrong then, None where the command ended before."""
    until = time.monotonic() + PATIENCE_S
    there = set(miniature.base(home).glob(pattern))
    while process.poll() is None and time.monotonic() < until and not set(miniature.base(home).glob(pattern)) - there:
        time.sleep(0.005)
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


def main() -> None:
    """Run it, and end with 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--undisturbed", type=Path, help="what `tests.faults.sweep --work` has kept")
    parser.add_argument("--first", type=int, default=0, help="number of the first moment")
    options = parser.parse_args()
    work, chance, wrong = options.work or Path(tempfile.mkdtemp(prefix="scarforge_killed_")), random.Random(0), []
    home, studies = work / "home", miniature.write_studies(work / "studies")
    chance.seed(options.seed)
    for number, (moment, pattern) in enumerate(list(MOMENTS.items())[options.first :]):
        sent, said = SIGNALS[(number + options.seed) % len(SIGNALS)], work / f"said_{number}"
        process = start(home, studies, said)
        found = end_at(process, home, pattern, sent, chance.choice((0, 0.05, 0.3, 1)))
        told = said.read_text(errors="replace")
        if found is None and process.returncode:
            found = [f"ended by itself with {process.returncode}"]
        missed = found is None
        found = (found or []) + (["a traceback"] if "Traceback" in told else [])
        wrong += found
        ended = f"{'missed, ' if missed else ''}status {process.returncode}"
        print(f"{moment}, {sent.name}: {ended}, {found or 'nothing wrong'}", flush=True)
        if found:
            print(told, flush=True)
    process = start(home, studies, work / "said_last")
    if process.wait(PATIENCE_S):
        wrong.append(f"at last: ended with {process.returncode}")
        print((work / "said_last").read_text(errors="replace"))
    wrong += [f"left: {name}" for name in miniature.leftovers(home)]
    if options.undisturbed:
        whole = json.loads(options.undisturbed.read_text())[1]
        if (found := miniature.results(home)) != whole:
            wrong.append(f"other bytes: {_differing(found, whole)}")
    print(f"at last: status {process.returncode}, {wrong or 'nothing wrong'}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
