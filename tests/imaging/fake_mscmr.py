"""Writes miniature MS-CMRSeg folders: the names and numbers of the files and those of the challenge itself.

`python -m tests.imaging.fake_mscmr DIR` writes three sound patients and one of each oddity to look at.
"""

import sys
from pathlib import Path

import numpy as np

from tests.imaging.fake_emidec import image_of
from tests.imaging.fake_nifti_pairs import DAMAGE, write_volume

PUBLISHED = np.array([0, 1, 2, 3])  # background, right ventricle, myocardium, cavity
CHALLENGE = np.array([0, 600, 200, 500])


def label_map(shape=(40, 48, 3)):
    """A ring off centre with the right ventricle at its left: 0 to 3 as published."""
    columns, rows, _ = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    mask = np.zeros(shape, np.uint8)
    mask[np.hypot(columns - 8, rows - 22) < 7] = 1
    mask[np.hypot(columns - 20, rows - 24) < 11] = 2
    mask[np.hypot(columns - 20, rows - 24) < 7] = 3
    return mask


def image_path(root, case_id, folder="images", sequence="DE"):
    return root / folder / f"{case_id}_{sequence}.nii.gz"


def mask_path(root, case_id, folder="labels", sequence="DE"):
    return root / folder / f"{case_id}_{sequence}_manual.nii.gz"


def write_case(root, case_id, sequence="DE", numbers=PUBLISHED, folders=("images", "labels")):
    mask = label_map()
    write_volume(image_path(root, case_id, folders[0], sequence), image_of(mask))
    write_volume(mask_path(root, case_id, folders[1], sequence), numbers[mask].astype(np.int16))


def write_damaged(root, case_id, oddity):
    write_case(root, case_id)
    DAMAGE[oddity][0](image_path(root, case_id), mask_path(root, case_id))


if __name__ == "__main__":
    target = Path(sys.argv[1]) / "studies"
    for name in ("subject1", "subject8", "subject29"):
        write_case(target, name)
    for number, kind in enumerate(DAMAGE):
        write_damaged(target, f"subject{900 + number}", kind)
