"""Whether a model has seen the patients it is to be tested on, told by their names and by their images.

Names tell only within one source: `patient001` of two hospitals are two people. The image tells anywhere, if it was
prepared alike. Patients that chose a checkpoint (validation) were seen, too.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, some_of
from imaging.studies.preparation import resample_image
from imaging.studies.study import Study
from runtime.pack import stands_as


@dataclass(frozen=True)
class SeenPatients:
    """Whom one trained thing has seen.

    Attributes:
        what: It, for messages.
        source: Where its patients are from.
        names: Of its training and validation patients.
        images: Their digests, from `image_digest`; None where the workspace keeps no images of them.
        unseen: Patients that one fold alone has not seen, by fold.
        identified: Whether names of the source stand for patients; drawn ones are called alike whatever is drawn.
        salt: Of a pack, where names and images are salted hashes; None where they are themselves.
    """

    what: str
    source: str
    names: frozenset[str]
    images: frozenset[str] | None
    unseen: Mapping[int, frozenset[str]] = field(default_factory=dict)
    identified: bool = True
    salt: str | None = None

    def told_by(self, source: str) -> str:
        """Return how the patients of a source are told from these, for people."""
        ways = (("name", self.identified and source == self.source), ("image", self.images is not None))
        return " and ".join(name for name, used in ways if used) or "source alone"


@dataclass(frozen=True)
class Candidate:
    """A study that is to be tested, by patient and image."""

    case_id: str
    image: str

    @classmethod
    def of(cls, study: Study) -> "Candidate":
        """Return what tells a study from others."""
        return cls(study.case_id, image_digest(resample_image(study.image, study.spacing_mm)))


def image_digest(prepared: NDArray[np.float32]) -> str:
    """Return a SHA-256 over an image (S, H1, W1) on the 1 mm grid."""
    digest = hashlib.sha256(f"{prepared.dtype.str}{prepared.shape}".encode())
    digest.update(np.ascontiguousarray(prepared).data)
    return digest.hexdigest()


def refuse_seen(candidates: Sequence[Candidate], source: str, seen: Iterable[SeenPatients]) -> None:
    """Refuse a test on patients that a model or its localiser was trained on.

    Args:
        candidates: The studies to be tested.
        source: Where they are from.
        seen: Whom each trained thing has seen.

    Raises:
        InputError: Some were; the message names them and what to do instead.
    """
    for one in seen:
        known = sorted({study.case_id for study in candidates if _was_seen(study, source, one)})
        if known:
            raise InputError(
                f"{one.what} was trained on {some_of(known)} ({len(known)} of "
                f"{len({study.case_id for study in candidates})} patients): its scores would flatter it; "
                + _remedy(candidates, source, one)
            )


def _was_seen(study: Candidate, source: str, one: SeenPatients) -> bool:
    named = one.identified and source == one.source and stands_as(study.case_id, one.salt) in one.names
    return named or (one.images is not None and stands_as(study.image, one.salt) in one.images)


def _remedy(candidates: Sequence[Candidate], source: str, one: SeenPatients) -> str:
    asked = {stands_as(study.case_id, one.salt) for study in candidates}
    folds = [str(fold) for fold, patients in one.unseen.items() if source == one.source and asked <= patients]
    if folds:
        return f"fold {' or '.join(folds)} has not seen any of them: name it with --fold"
    return "give a folder without them; how the model does on its own source is in the graph's scores"
