"""Trained models of a workspace, and what they make of a study or an array."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, some_of
from engine.workspace import home_of
from imaging.labels import LabelSet
from imaging.studies.study import Study
from imaging.volumes.dicom.volume import DicomVolume
from imaging.volumes.new_studies import NewStudy, find_studies, volumes_of
from imaging.volumes.nifti import NiftiVolume, write_label_map

if TYPE_CHECKING:
    from pipeline.commands.models import LoadedModel

_DIMENSIONS = 3  # slices, rows, columns


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model makes of one study.

    Attributes:
        mask: (S, H, W) uint8, label values on the study's own grid.
        tissues: Name of each label value, background first.
        volumes_ml: By tissue and official group.
        shares_percent: Infarction and no-reflow as percent of the myocardium, None without myocardium; empty for
            models of cine.
        flags: A sentence for each thing that is odd about the study or its segmentation; empty where nothing is.
        notes: A sentence for each thing that the study's files say differently in two places.
        intervals_ml: Lower and upper end of what nine of ten volumes lie in, by tissue and group; of packs alone.
    """

    mask: NDArray[np.uint8]
    tissues: tuple[str, ...]
    volumes_ml: Mapping[str, float]
    shares_percent: Mapping[str, float | None]
    flags: tuple[str, ...]
    notes: tuple[str, ...] = ()
    intervals_ml: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    _volume: NiftiVolume | DicomVolume | None = field(default=None, repr=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the label map as NIfTI, in the voxel order and with the affine of the study's file.

        Raises:
            InputError: The study was an array, which has no geometry of its own, or the file cannot be written.
        """
        if self._volume is None:
            raise InputError(
                f"{path}: the study was an array, whose place in the scanner is not known; predict its file, or write "
                "`mask` with an affine of your own"
            )
        write_label_map(Path(path), self.mask, self._volume)


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model with its localisers; `load_model` makes one.

    Attributes:
        name: A pack's, or `SOURCE/PROFILE/NETWORK/TRAINING_SET`.
        folds: The folds whose networks are averaged.
        seeds: Their seeds.
    """

    name: str
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    _loaded: "LoadedModel" = field(repr=False)

    @property
    def labels(self) -> LabelSet:
        """The label set of its masks: names, colours and official groups."""
        return self._loaded.segmenter.label_set

    def predict(
        self,
        study: str | os.PathLike[str] | Study | NDArray[np.floating],
        spacing_mm: tuple[float, float, float] | None = None,
    ) -> Prediction:
        """Segment one study: find the left ventricle, cut around it, segment, and put the result back.

        Args:
            study: A NIfTI file, a folder with the DICOM files of one series, a study of `read_source`, or an array
                (S, H, W) in scanner units, rows and columns running as in the studies that the model was trained on.
            spacing_mm: Of an array: (slice, row, column) in mm. A file has its own.

        Raises:
            InputError: It is no study or several, cannot be read, or shows no ventricle or no contrast.
        """
        if isinstance(study, np.ndarray):
            return self._predict(_image(study, spacing_mm), checked_spacing(spacing_mm), "array")
        if spacing_mm is not None:
            raise InputError("spacing_mm is for arrays; a file or study has its own")
        if isinstance(study, Study):
            return self._predict(study.image, study.spacing_mm, study.path)
        read = _only_volume(Path(study))
        return self._predict(read.volume.image, read.volume.spacing_mm, str(read.path), read)

    def segment_regions(self, images: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Return the label maps (N, H, W) of regions (N, H, W) in [0, 1], such as the images of a slice store."""
        return self._loaded.segmenter.labels(np.asarray(images, dtype=np.float32))

    def probabilities_of_regions(self, images: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the class probabilities (N, C, H, W) of regions (N, H, W) in [0, 1]."""
        return self._loaded.segmenter.probabilities(np.asarray(images, dtype=np.float32))

    def _predict(
        self,
        image: NDArray[np.float32],
        spacing_mm: tuple[float, float, float],
        source: str,
        read: NewStudy | None = None,
    ) -> Prediction:
        from segmentation.prediction.study import interval_ml, predict_checked

        model = self._loaded
        found = predict_checked(
            image, spacing_mm, model.segmenter, model.localisers, model.region, model.familiarity, source
        )
        return Prediction(
            mask=found.prediction.mask,
            tissues=self.labels.tissues,
            volumes_ml=found.prediction.volumes_ml,
            shares_percent=found.prediction.shares_percent,
            flags=found.flags,
            intervals_ml=interval_ml(found.prediction.volumes_ml, model.intervals),
            notes=read.notes if read else (),
            _volume=read.volume if read else None,
        )


def load_model(
    name: str | os.PathLike[str],
    workspace: str | os.PathLike[str] | None = None,
    fold: int | None = None,
    post_processing: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Model:
    """Load a trained model of a pack or a workspace: every finished seed and fold, averaged.

    Args:
        name: A pack's name or file, such as `lge`, or `SOURCE/PROFILE/NETWORK/TRAINING_SET` of the workspace, such as
            `emidec/quick/attention_res_unet/real_only`.
        workspace: Its folder; None for `SCARFORGE_HOME`, else `./workspace`.
        fold: Only this fold's networks: those that have not seen the fold's test patients.
        post_processing: Apply the steps that the validation patients chose, and leave out unsure lesions.
        device: `auto` takes a GPU where there is one.

    Raises:
        InputError: There is no such model, with the names there are; or a file of it is damaged.
    """
    from pipeline.commands.models import find_model
    from pipeline.commands.models import load_model as load
    from runtime.compute import choose_compute

    home = home_of(os.environ) if workspace is None else Path(workspace).absolute()
    loaded = load(home, find_model(home, os.fspath(name)), fold, None, choose_compute(device), None, post_processing)
    folds, seeds = ({getattr(member, which) for member in loaded.members} for which in ("fold", "seed"))
    return Model(str(loaded.name), tuple(sorted(folds)), tuple(sorted(seeds)), loaded)


def _image(array: NDArray[np.floating], spacing_mm: tuple[float, float, float] | None) -> NDArray[np.float32]:
    if array.ndim != _DIMENSIONS or not array.size:
        raise InputError(f"array of shape {array.shape}: a study is (slices, rows, columns); add or drop axes")
    if not np.isfinite(array).all():
        raise InputError("array: holds values that are not finite; replace them")
    if spacing_mm is None:
        raise InputError("array: its spacing is unknown; give spacing_mm=(slice, row, column) in mm")
    return np.ascontiguousarray(array, dtype=np.float32)


def checked_spacing(spacing_mm: tuple[float, float, float] | None) -> tuple[float, float, float]:
    """Return three lengths in mm, or raise `InputError` with what was given."""
    values = tuple(float(value) for value in spacing_mm or ())
    if len(values) != _DIMENSIONS or not all(np.isfinite(value) and value > 0 for value in values):
        raise InputError(f"spacing_mm={spacing_mm}: give three lengths above 0, (slice, row, column) in mm")
    return values[0], values[1], values[2]


def _only_volume(path: Path) -> NewStudy:
    volumes = [volume for found in find_studies([path]) for volume in volumes_of(found)]
    if len(volumes) != 1:
        names = some_of(volume.case_id for volume in volumes)
        raise InputError(f"{path}: holds {len(volumes)} volumes ({names}); give one, or use `scarforge predict`")
    return volumes[0].read()
