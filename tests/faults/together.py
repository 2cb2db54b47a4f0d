"""Two commands at once in one workspace: the same fold twice, and two folds, whose comparison is one.

    python -m tests.faults.together                      the whole fold
    python -m tests.faults.together --until real_slices

Each result is made once, both commands end well, and the files are those of one command after the other, to the byte.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults import miniature
from tests.faults.sweep import _differing, up_to


def two(work: Path, name: str, folds: Sequence[int], assets: Sequence[str]) -> list[miniature.Ended]:
    """Run two commands at once in a new workspace `name`; the second continues what the first has begun."""
    home = miniature.new_home(work / name)
    said = [home.with_name(f"{name}_{number}") for number in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        begun = [
            pool.submit(miniature.run, home, work / "studies", assets=assets, fold=fold, said=place)
            for fold, place in zip(folds, said, strict=True)
        ]
        return [one.result() for one in begun]


def wrong_with(ended: Sequence[miniature.Ended], home: Path, alone: dict[str, dict[str, str]]) -> list[str]:
    """Return what differs from one command after the other."""
    wrong = [f"ended with {one.status}: {one.said[-3:]}" for one in ended if one.status]
    found = {place: files for place, files in miniature.results(home).items() if place in alone}
    wrong += [] if found == alone else [f"other bytes: {_differing(found, alone)}"]
    return wrong + [f"left: {name}" for name in miniature.leftovers(home)]


def main() -> None:
    """Run them, and end with 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--until", default="", help="the last stage; default: the whole fold")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="scarforge_together_"))
    work.mkdir(exist_ok=True, parents=True)
    assets, wrong = up_to(options.until), {}
    miniature.prepare_process()
    studies = miniature.write_studies(work / "studies")
    one_by_one = miniature.new_home(work / "one_by_one")
    alone, each = {}, []
    for fold in (0, 1):
        each.append(miniature.run(one_by_one, studies, assets=assets, fold=fold))
        alone[fold] = miniature.results(one_by_one)
        print(f"fold {fold} alone: status {each[-1].status}, {each[-1].cpu_seconds:.0f} s of a processor", flush=True)
    for name, folds in (("same_fold", (0, 0)), ("two_folds", (0, 1))):
        ended = two(work, name, folds, assets)
        wrong[name] = wrong_with(ended, work / name, alone[folds[1]])
        steps = {asset: sum(one.steps.get(asset, 0) for one in ended) for asset in ended[0].steps | ended[1].steps}
        expected = {asset: taken * len(set(folds)) for asset, taken in each[0].steps.items()}
        wrong[name] += [] if steps == expected else [f"trained {steps} steps instead of {expected}"]
        print(f"{name}: {[one.status for one in ended]}, {wrong[name] or 'nothing wrong'}", flush=True)
        if wrong[name]:
            print("\n".join(line for one in ended for line in (*one.said, "")), flush=True)
    if not options.work:
        shutil.rmtree(work)
    sys.exit(any(wrong.values()))


if __name__ == "__main__":
    main()
