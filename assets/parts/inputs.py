"""Opening what other assets have finished, by the asset's name; every file is compared with its asset's record."""

from pathlib import Path
from typing import TYPE_CHECKING

from engine.forge import Forge
from imaging.slices.store import SliceStore
from runtime.model_card import ModelCard

if TYPE_CHECKING:
    from imaging.studies.archive import StudyArchive
    from imaging.studies.split import FoldSplit

VARIED_SLICES = "varied_slices.h5"


def studies_file(forge: Forge) -> Path:
    """Return the archive that `studies` wrote."""
    return forge.finished("studies").file("studies.h5")


def split_file(forge: Forge) -> Path:
    """Return the folds that `patient_split` wrote."""
    return forge.finished("patient_split").file("patient_split.json")


def slices_file(forge: Forge, asset: str, fold: int) -> Path:
    """Return the slice store of an asset."""
    return forge.finished(asset, fold).file("slices.h5")


def varied_slices_file(forge: Forge, fold: int) -> Path:
    """Return the store of synthetic slices that is trained on."""
    return forge.finished("synthetic_slices", fold).file(VARIED_SLICES)


def open_studies(forge: Forge) -> "StudyArchive":
    """Open the archive of studies."""
    from imaging.studies.archive import StudyArchive

    return StudyArchive.open(studies_file(forge))


def open_split(forge: Forge, fold: int) -> "FoldSplit":
    """Read who is trained on, validated on and tested in a fold."""
    from imaging.studies.split import read_split

    return read_split(split_file(forge), fold)


def open_slices(forge: Forge, asset: str, fold: int) -> SliceStore:
    """Open the slice store of an asset."""
    return SliceStore.open(slices_file(forge, asset, fold), verify=False)  # its bytes are the recorded ones


def open_varied_slices(forge: Forge, fold: int) -> SliceStore:
    """Open the synthetic slices as they are trained on: under the recipe that varies the real ones."""
    return SliceStore.open(varied_slices_file(forge, fold), verify=False)


def model_card(forge: Forge, asset: str, fold: int, seed: int) -> ModelCard:
    """Read the card of a model."""
    return ModelCard.read(forge.finished(asset, fold, seed).file("model_card.json").parent)
