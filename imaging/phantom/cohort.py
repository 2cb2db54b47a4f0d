"""The simulated patients, one after another; each depends on the configuration and its index alone."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from common.seeds import random_generator
from imaging.labels import EMIDEC_LABELS, PATIENT_GROUPS, Tissue, patient_group
from imaging.phantom.config import PhantomConfig
from imaging.phantom.scanner import Patient, acquire, coil_sensitivity, draw_scanner, render
from imaging.studies.study import Study

_ATTEMPTS = 20
# Fewer voxels than these would not have been drawn by an expert.
_SMALLEST_VOXELS = {Tissue.INFARCT: 40, Tissue.NO_REFLOW: 10}


def read_phantom(config: PhantomConfig) -> Iterator[Study]:
    """Yield every patient of the cohort, in order."""
    for index in range(config.patients):
        yield simulate_patient(config, index)


def simulate_patient(config: PhantomConfig, index: int) -> Study:
    """Simulate one patient's stack of short-axis slices with its label map.

    Args:
        config: The cohort; `patients` has no influence on a single patient.
        index: From 0.

    Returns:
        A study whose image and mask are (S, H, W), apex first, on its own native grid. Its group is that of its mask.
    """
    group = group_of(config, index)
    for attempt in range(_ATTEMPTS):
        rng = random_generator(config.seed, "phantom patient", index, attempt)
        patient = Patient.draw(config, group, rng)
        signal, mask = render(patient, rng)
        if _has_group(mask, group):
            return _study(f"Phantom_{index + 1:03d}", group, patient, _measure(config, patient, signal, rng), mask)
    raise AssertionError(f"patient {index}: no {group} in {_ATTEMPTS} attempts; the lesions' spans are too small")


def group_of(config: PhantomConfig, index: int) -> str:
    """Return the group of patient `index`: always the one that lags furthest behind its share."""
    rest = 1 - config.normal_share - config.no_reflow_share
    shares = np.array([config.normal_share, rest, config.no_reflow_share])
    counts = np.zeros(len(PATIENT_GROUPS))
    chosen = 0
    for place in range(index + 1):
        chosen = int(np.argmax(np.round(shares * (place + 1) - counts, 9)))
        counts[chosen] += 1
    return PATIENT_GROUPS[chosen]


def _has_group(mask: NDArray[np.uint8], group: str) -> bool:
    counts = np.bincount(mask.ravel(), minlength=EMIDEC_LABELS.num_classes)
    enough = all(counts[tissue] == 0 or counts[tissue] >= least for tissue, least in _SMALLEST_VOXELS.items())
    return enough and patient_group(mask, EMIDEC_LABELS) == group


def _measure(
    config: PhantomConfig, patient: Patient, signal: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    scanner = draw_scanner(config, rng)
    row, column = patient.centres_mm.mean(axis=0).tolist()
    sensitivity = coil_sensitivity(
        signal.shape[1:], patient.pixel_mm, (row, column), patient.chest.direction, scanner.shading_mm
    )
    blur_px = rng.uniform(0, config.breathing_mm, (len(signal), 2)) / patient.pixel_mm
    return acquire(signal, sensitivity, scanner, blur_px, rng)


def _study(case_id: str, group: str, patient: Patient, image: NDArray[np.float32], mask: NDArray[np.uint8]) -> Study:
    return Study(
        case_id=case_id,
        frame="",
        group=group,
        image=image,
        mask=mask,
        spacing_mm=(patient.slice_mm, patient.pixel_mm, patient.pixel_mm),
        affine=np.diag([patient.pixel_mm, patient.pixel_mm, patient.slice_mm, 1.0]),
        label_set=EMIDEC_LABELS.name,
        path=f"phantom:{case_id}",
    )
