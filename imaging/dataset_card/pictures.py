"""The dataset card's pictures of patients, as addresses that a page can hold."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from imaging.dataset_card.facts import region_centre, study_name
from imaging.errors import InputError
from imaging.labels import PATIENT_GROUPS, LabelSet
from imaging.overlay import overlay, png_bytes
from imaging.prepare import crop_region
from imaging.prepared_study import PreparedStudy
from imaging.regions import RegionConfig, study_regions

_GAP_PX = 3


@dataclass(frozen=True)
class Picture:
    """A picture as the address of an `img` element, with its text for those who do not see it."""

    src: str
    alt: str


@dataclass(frozen=True)
class Tile:
    """The middle labelled slice of a patient: bare, and with its labels."""

    picture: Picture
    title: str
    group: str
    detail: str


def patients_pictured(groups: Mapping[str, str], most: int = 12) -> list[str]:
    """Return up to `most` patients: as many of each group as there are, evenly spaced in the order of names."""
    members = {group: sorted(case for case, of in groups.items() if of == group) for group in PATIENT_GROUPS}
    quota = dict.fromkeys(members, 0)
    while sum(quota.values()) < min(most, len(groups)):
        for group, cases in members.items():
            quota[group] += quota[group] < len(cases) and sum(quota.values()) < most
    return [case for group, cases in members.items() for case in _evenly(cases, quota[group])]


def slice_tile(study: PreparedStudy, labels: LabelSet, region: RegionConfig) -> Tile | None:
    """Return the middle labelled slice of a study, or None where it has no contrast."""
    centre, name = region_centre(study), study_name(study.case_id, study.frame)
    try:
        images, _ = study_regions(study.image, centre, region, name)
    except InputError:
        return None
    labelled = np.flatnonzero((study.mask > 0).any(axis=(1, 2)))
    place = int(labelled[len(labelled) // 2]) if len(labelled) else len(images) // 2
    mask = crop_region(study.mask, centre, region.size_px)[place]
    bare, painted = (overlay(images[place], shown, labels) for shown in (np.zeros_like(mask), mask))
    gap = np.full((len(bare), _GAP_PX, 3), 255, np.uint8)
    png = png_bytes(Image.fromarray(np.concatenate([bare, gap, painted], axis=1)))
    detail = f"slice {place + 1} of {len(images)}"
    alt = f"{name}, {detail}: the region around the ventricle, bare and with its labels"
    return Tile(Picture(data_address(png, "image/png"), alt), name, study.group, detail)


def data_address(content: bytes, kind: str) -> str:
    """Return a file's content as a `data:` address of a media type."""
    return f"data:{kind};base64,{b64encode(content).decode()}"


def _evenly(cases: Sequence[str], count: int) -> list[str]:
    return [cases[place] for place in np.linspace(0, len(cases) - 1, count).round().astype(int)] if count else []
