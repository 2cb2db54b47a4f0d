"""What a reader of the dataset should be warned about: one sentence each, with the studies it is about."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from common.errors import some_of
from common.pages.words import words
from imaging.dataset_card.facts import StudyFacts
from imaging.labels import PATIENT_GROUPS, LabelSet
from imaging.slices.regions import RegionConfig

_NAMED = 8  # studies that a warning names before it counts the others
_FEWEST_PATIENTS = 5  # of a group
_PADDING = 0.01
_SPACING_FACTOR = 1.5  # from the median
_VOLUME_FACTOR = 3.0
_ANISOTROPY = 1.01
_FEWEST_COMPARED = 3  # studies that make a median

Facts = Sequence[StudyFacts]


def dataset_warnings(
    facts: Facts,
    groups: Mapping[str, str],
    labels: LabelSet,
    region: RegionConfig,
    rejected: int,
    notes: Sequence[str] = (),
) -> list[str]:
    """Return the warnings, the gravest first.

    Args:
        facts: Of all studies.
        groups: Group by patient.
        labels: Of every mask.
        region: How regions will be cut.
        rejected: How many studies were left out.
        notes: What files say differently in two places, and what no scanner gives.
    """
    left_out = [f"{_count(rejected, 'study', 'studies')} of the source could not be used; the reasons are below."]
    findings = (
        left_out if rejected else [],
        _contradictions(notes),
        same_contents((f.name, f.image_digest, f.mask_digest) for f in facts),
        _unusable_regions(facts),
        _borders(facts),
        _region_size(facts, region),
        _padding(facts),
        _saturation(facts),
        _spacing(facts),
        _volumes(facts, labels),
        _slices(facts),
        _frames(facts),
        _small_groups(groups),
    )
    return [text for finding in findings for text in finding]


def _contradictions(notes: Sequence[str]) -> list[str]:
    rest = len(notes) - _NAMED
    return [*notes[:_NAMED], *([f"{rest} more notes of this kind are left out."] if rest > 0 else [])]


def same_contents(studies: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """Yield a sentence where images or label maps are the same under several names.

    Args:
        studies: Name, digest of the image and digest of the label map of each.
    """
    named, *digests = zip(*studies, strict=True)
    for what, each in zip(("image", "label map"), digests, strict=True):
        names = defaultdict(list)
        for name, digest in zip(named, each, strict=True):
            names[digest].append(name)
        same = [" = ".join(twins) for twins in names.values() if len(twins) > 1]
        if same:
            yield f"The same {what}, voxel for voxel, has several names; keep one of each: {_listed(same)}."


def _unusable_regions(facts: Facts) -> Iterator[str]:
    flat = [f.name for f in facts if f.no_contrast]
    if flat:
        yield f"The region around the ventricle has no contrast in {_of(flat, facts)}: {_listed(flat)}."
    gone = [f.name for f in facts if f.box is None]
    if gone:
        yield f"No label is left on the 1 mm grid in {_of(gone, facts)}: {_listed(gone)}."


def _borders(facts: Facts) -> Iterator[str]:
    cut = [f"{f.name} ({', '.join(f.touched)})" for f in facts if f.touched]
    if cut:
        yield (
            f"Labels touch the border of the image in {_of(cut, facts)}, so that part of the ventricle may be "
            f"missing: {_listed(cut)}."
        )


def _region_size(facts: Facts, region: RegionConfig) -> Iterator[str]:
    boxes = [(f.name, f.lost_pixels, max(f.box.height, f.box.width)) for f in facts if f.box]
    large = [f"{name} ({side:g} mm)" for name, lost, side in boxes if lost]
    if large:
        yield f"Labels do not fit into a region of {region.size_px} mm in {_of(large, facts)}: {_listed(large)}."
    room = region.size_px - 2 * region.jitter_mm
    tight = [f"{name} ({side:g} mm)" for name, lost, side in boxes if not lost and side > room]
    if tight:
        yield (
            f"The jitter of {region.jitter_mm:g} mm can move labels out of a training region of {region.size_px} mm "
            f"in {_of(tight, facts)}: {_listed(tight)}."
        )


def _padding(facts: Facts) -> Iterator[str]:
    padded = sorted((f for f in facts if f.padding > _PADDING), key=lambda f: -f.padding)
    if padded:
        names = [f"{f.name} ({100 * f.padding:.0f} %)" for f in padded]
        yield (
            f"The region reaches beyond the image, where it is filled with 0, by more than {100 * _PADDING:g} % in "
            f"{_of(padded, facts)}: {_listed(names)}."
        )


def _saturation(facts: Facts) -> Iterator[str]:
    clipped = sorted((f for f in facts if f.saturated), key=lambda f: -f.saturated)
    if clipped:
        names = [f"{f.name} ({100 * f.saturated:.1f} %)" for f in clipped]
        yield (
            f"Intensities are saturated in {_of(clipped, facts)}; in brackets the share of the region at the top "
            f"value, where tissues cannot be told apart: {_listed(names)}."
        )


def _spacing(facts: Facts) -> Iterator[str]:
    for axis, between in enumerate(("slices", "rows", "columns")):
        sides = {f.name: f.spacing_mm[axis] for f in facts}
        yield from _outliers(f"The spacing between {between}", "mm", sides, _SPACING_FACTOR)
    uneven = [
        f"{f.name} ({f.spacing_mm[1]:g} x {f.spacing_mm[2]:g})"
        for f in facts
        if max(f.spacing_mm[1:]) > _ANISOTROPY * min(f.spacing_mm[1:])
    ]
    if uneven:
        yield f"Pixels are not square in {_of(uneven, facts)} (row x column, mm): {_listed(uneven)}."


def _volumes(facts: Facts, labels: LabelSet) -> Iterator[str]:
    values = list(labels.official_groups["myocardium"])
    volumes = {f.name: float(f.volumes_ml[values].sum()) for f in facts}
    yield from _outliers("The volume of all myocardium", "mL", volumes, _VOLUME_FACTOR)


def _outliers(what: str, unit: str, values: Mapping[str, float], factor: float) -> Iterator[str]:
    if len(values) < _FEWEST_COMPARED:
        return
    middle = float(np.median(list(values.values())))
    far = [f"{name} ({v:.4g})" for name, v in values.items() if not middle / factor <= v <= middle * factor]
    if far:
        yield (
            f"{what} is more than {factor:g} times smaller or larger than the median of {middle:.4g} {unit} in "
            f"{_of(far, values)}: {_listed(far)}."
        )


def _slices(facts: Facts) -> Iterator[str]:
    single = [f.name for f in facts if f.shape[0] == 1]
    if single:
        yield f"There is only one slice in {_of(single, facts)}: {_listed(single)}."
    labelled = {f.name: np.flatnonzero(f.voxels[:, 1:].sum(axis=1)) for f in facts}
    bare = [f"{f.name} ({f.shape[0] - len(labelled[f.name])})" for f in facts if len(labelled[f.name]) < f.shape[0]]
    if bare:
        yield f"Slices carry no label in {_of(bare, facts)}; in brackets how many: {_listed(bare)}."
    gaps = [name for name, places in labelled.items() if len(places) and np.ptp(places) + 1 > len(places)]
    if gaps:
        yield f"A slice without label lies between labelled ones in {_of(gaps, facts)}: {_listed(gaps)}."


def _frames(facts: Facts) -> Iterator[str]:
    frames = defaultdict(set)
    for f in facts:
        frames[f.case_id].add(f.frame)
    most = max(len(found) for found in frames.values())
    fewer = [f"{case} ({len(found)})" for case, found in frames.items() if len(found) < most]
    if fewer:
        yield (
            f"{_count(len(fewer), 'patient has', 'patients have')} fewer frames than the others' {most}; in brackets "
            f"how many: {_listed(fewer)}."
        )


def _small_groups(groups: Mapping[str, str]) -> Iterator[str]:
    for group in PATIENT_GROUPS:
        patients = list(groups.values()).count(group)
        if 0 < patients < _FEWEST_PATIENTS:
            counted = _count(patients, "patient", "patients")
            yield f"Group {words(group)} has only {counted}: five folds cannot all test on one of them."


def _of(found: Iterable[object], all_of_them: Iterable[object]) -> str:
    some, total = len(list(found)), len(list(all_of_them))
    return f"{some} of {_count(total, 'study', 'studies')}"


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _listed(names: Sequence[str]) -> str:
    return some_of(names, _NAMED)
