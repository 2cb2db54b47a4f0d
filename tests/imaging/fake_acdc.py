"""Writes miniature ACDC folders: real names, with and without `Info.cfg`, and deliberate oddities.

`python -m tests.imaging.fake_acdc DIR` writes three sound patients and one of each oddity to look at.
"""

import sys
from functools import partial
from pathlib import Path

import nibabel
import numpy as np

from tests.imaging.fake_emidec import SHAPE, image_of, write_nifti
from tests.imaging.fake_nifti_pairs import DAMAGE

INFO = "ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"
LARGE, SMALL = 8, 5  # radius of the cavity in pixels at end diastole and end systole


def label_map(cavity):
    """Numbers as published: 1 right ventricle, 2 myocardium, 3 cavity."""
    columns, rows, _ = np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij")
    mask = np.zeros(SHAPE, np.uint8)
    mask[np.hypot(columns - 7, rows - 22) < 6] = 1
    mask[np.hypot(columns - 22, rows - 24) < 12] = 2
    mask[np.hypot(columns - 22, rows - 24) < cavity] = 3
    return mask


def image_path(folder, number):
    return folder / f"{folder.name}_frame{number:02d}.nii.gz"


def mask_path(folder, number):
    return folder / f"{folder.name}_frame{number:02d}_gt.nii.gz"


def write_frame(folder, number, cavity):
    """Affines are diagonal, whatever the patient's orientation; the header tells the spacing."""
    mask = label_map(cavity)
    write_nifti(image_path(folder, number), image_of(mask))
    write_nifti(mask_path(folder, number), mask)


def write_patient(folder, frames=((1, LARGE), (12, SMALL)), info=INFO):
    for number, cavity in frames:
        write_frame(folder, number, cavity)
    write_nifti(folder / f"{folder.name}_4d.nii.gz", np.ones((*SHAPE, 2), np.float32))
    if info:
        (folder / "Info.cfg").write_text(info, encoding="utf-8")
    return folder


def _damaged(damage, folder):
    write_patient(folder)
    damage(image_path(folder, 12), mask_path(folder, 12))


def _informed(info, folder):
    write_patient(folder, info=info)


def _info_elsewhere(folder):
    outside = folder.parents[1] / "Info.cfg"
    write_patient(folder, info="")
    outside.write_text(INFO, encoding="utf-8")
    (folder / "Info.cfg").symlink_to(outside)


def _folder_elsewhere(folder):
    outside = write_patient(folder.parents[1] / folder.name)
    folder.symlink_to(outside)


def _empty_folder(folder):
    folder.mkdir(parents=True)


def _another_name(folder):
    nibabel.save(nibabel.load(image_path(write_patient(folder), 12)), image_path(folder, 12).with_suffix(""))


# oddity in frame 12: (what writes the patient's folder, what the reason must say)
FRAME_ODDITIES = {
    **{name: (partial(_damaged, damage), text) for name, (damage, text) in DAMAGE.items()},
    "image_twice": (_another_name, "2 files are the image of one study; keep one of them"),
    "named_but_absent": (
        partial(_informed, INFO.replace("12", "13")),
        r"frame13.nii.gz is missing, which Info.cfg names as ES",
    ),
}
# oddity of the whole patient
PATIENT_ODDITIES = {
    "no_number": (partial(_informed, "ED: first\n"), r"Info.cfg: ED is 'first'; write the number of a frame"),
    "same_frame": (partial(_informed, "ED: 1\nES: 01\n"), "ED and ES are both frame 01; correct one"),
    "info_elsewhere": (_info_elsewhere, "Info.cfg: leads out of the folder"),
    "folder_elsewhere": (_folder_elsewhere, "leads out of the folder"),
    "empty_folder": (_empty_folder, "frame01.nii.gz or other frame; add them"),
}


if __name__ == "__main__":
    target = Path(sys.argv[1]) / "studies"
    for number in (1, 2, 3):
        write_patient(target / f"patient{number:03d}")
    for number, (write, _) in enumerate((FRAME_ODDITIES | PATIENT_ODDITIES).values()):
        write(target / f"patient{900 + number}")
