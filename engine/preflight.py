"""What can be known to fail is refused before anything runs: missing files, an old workspace, a full disk."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.files import read_json
from engine.record import is_of_present_format, require_present_format
from engine.workspace import Workspace
from segmentation.model_kind import REAL_ONLY, ModelKind
from segmentation.networks.table import NETWORKS

if TYPE_CHECKING:
    from engine.settings import Settings
    from segmentation.training.config import TrainConfig

_SHAPE = ("name", "widths", "bottleneck", "module_width")
_BYTES_A_PIXEL = 3  # float16 and uint8
_STORES = 4.5  # of the arm's size: augmented slices, both training sets, masks, and synthetic slices twice
_MODELS_BYTES = 500_000_000  # networks with their checkpoints, tables, pages, tracking
_GIGABYTE = 1e9


def check_before_run(settings: "Settings", workspace: Workspace, folds: Iterable[int] = ()) -> None:
    """Check what a run reads and where it writes.

    Args:
        settings: Of the run, each valid by itself.
        workspace: Where its results will lie.
        folds: That will be run, as far as it is known: of these the folder of synthetic slices is looked into.

    Raises:
        InputError: Something is missing or does not fit; the message names the setting and the remedy.
    """
    require_present_format(workspace.place("studies"))
    for name, file in settings.quality.weight_files.items():
        _check_weights_file(f"quality.{name}", file)
    if settings.pix2pix.perceptual_weight and not settings.quality.vgg16_weights:
        raise InputError(
            f"pix2pix.perceptual_weight {settings.pix2pix.perceptual_weight:g} needs VGG16's features: give "
            "--set quality.vgg16_weights=FILE, or set pix2pix.perceptual_weight=0"
        )
    for name in NETWORKS:
        _check_start(name, settings.network(name))
    if settings.from_folder:
        _check_folder(settings, workspace, folds)
    _check_disk(settings, workspace)


def _check_folder(settings: "Settings", workspace: Workspace, folds: Iterable[int]) -> None:
    """Refuse a folder of synthetic slices that cannot be read, or that the run itself writes."""
    from gan.generation.from_folder import check_folder

    check_folder(settings.synthesis, folds)
    root = settings.synthesis.root
    assert root is not None
    if root.resolve().is_relative_to(workspace.root.resolve()):
        raise InputError(
            f"synthesis.root {root}: lies among the results that this run writes ({workspace.root}); copy the slices "
            "elsewhere"
        )


def _check_weights_file(setting: str, value: str) -> None:
    if not Path(value).is_file():
        raise InputError(f"{setting} {value!r}: there is no such file; give a safetensors file, or leave it empty")


def _check_start(name: str, config: "TrainConfig") -> None:
    """Refuse a `start_from` that is no model of a network like this one."""
    folder = config.start_from
    if folder is None:
        return
    setting = f"{name}.start_from {str(folder)!r}"
    if not (folder / "weights.safetensors").is_file():
        raise InputError(
            f"{setting}: holds no weights.safetensors; name a model folder, such as "
            f"WORKSPACE/acdc/quick/{ModelKind(name, REAL_ONLY).name}/fold_0/seed_0"
        )
    if not is_of_present_format(folder):
        raise InputError(f"{setting}: was trained by ScarForge 0.1.0; train it again with this version")
    theirs, own = _network_of(setting, folder), config.network.model_dump(mode="json")
    differing = [f"{key} {theirs.get(key)} instead of {own[key]}" for key in _SHAPE if theirs.get(key) != own[key]]
    if differing:
        raise InputError(f"{setting}: has {', '.join(differing)}; start from a network of the same widths")


def _network_of(setting: str, folder: Path) -> dict[str, Any]:
    try:
        network = read_json(folder / "config.json")["network"]
        return dict(network)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{setting}: its config.json does not tell its network ({error}); name another") from error


def _check_disk(settings: "Settings", workspace: Workspace) -> None:
    """Refuse counts whose slices cannot lie on the disk, beside those that earlier runs have written there."""
    home = workspace.home.absolute()
    wanted = settings.training_slices * settings.region.size_px**2 * _BYTES_A_PIXEL * _STORES + _MODELS_BYTES
    there = sum(path.stat().st_size for path in workspace.root.glob("*/fold_*/*.h5"))
    place = next(folder for folder in (home, *home.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if wanted > free + there:
        raise InputError(
            f"training_slices {settings.training_slices} at {settings.region.size_px} px take about "
            f"{wanted / _GIGABYTE:.1f} GB a fold, but {home} has {free / _GIGABYTE:.1f} GB left; free some, move "
            "SCARFORGE_HOME to another disk, or lower training_slices"
        )
