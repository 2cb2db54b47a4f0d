"""`scarforge export-dataset`: a fold's two training sets as data sets of nnU-Net, with the fold's own split."""

import shutil
from pathlib import Path

from assets.parts.inputs import open_slices, open_split, open_studies
from common.errors import InputError
from common.files import write_json
from common.own_files import mark_own
from engine.forge import Forge, say
from imaging.slices.nnunet import SPLITS, write_nnunet
from pipeline.commands.output_place import check_folder
from segmentation.model_kind import REAL_ONLY, REAL_PLUS_GAN, ModelKind

FORMATS = ("nnunet",)
_ARMS = {REAL_ONLY: "RealOnly", REAL_PLUS_GAN: "RealPlusGan"}
_COMMANDS = """\
export nnUNet_raw={output} nnUNet_preprocessed={output}/preprocessed nnUNet_results={output}/results
nnUNetv2_plan_and_preprocess -d {ids} -c 2d --verify_dataset_integrity
{copies}
then for each of them ({ids}), with F from 0 to 4, which all have this split and differ in their random start:
nnUNetv2_train ID 2d F
nnUNetv2_predict -d ID -c 2d -f F -i {output}/{first}/imagesTs -o {output}/predictions/ID/seed_F
and both together:
scarforge compare --reference {output}/{first}/labelsTs {predictions} -o {output}/comparison"""


def export_dataset(forge: Forge, fold: int, format_: str, output: Path, first_id: int = 501) -> list[Path]:
    """Write both arms of a fold and return their folders.

    Args:
        forge: Of the run.
        fold: The fold.
        format_: One of `FORMATS`.
        output: The folder that nnU-Net calls `nnUNet_raw`.
        first_id: Number of the real-only data set; the other has the next.

    Raises:
        InputError: The format is unknown, a training set is not finished, or the folder holds other data sets of these
            numbers.
    """
    if format_ not in FORMATS:
        raise InputError(f"--format {format_!r} is unknown; choose one of {', '.join(FORMATS)}")
    check_folder(output)
    title = f"{_camel(forge.source)}{_camel(forge.profile)}Fold{fold}"
    folders = {
        arm: output / f"Dataset{number:03d}_{title}{name}"
        for number, (arm, name) in enumerate(_ARMS.items(), first_id)
    }
    _refuse_others(output, list(folders.values()))
    for arm, folder in folders.items():
        _write_arm(forge, fold, arm, folder)
    say(_commands(output, list(folders.values())))
    return list(folders.values())


def _write_arm(forge: Forge, fold: int, arm: str, folder: Path) -> None:
    """Write one data set beside its place and move it there when it is whole."""
    table = open_studies(forge).table()
    slice_mm = {(str(row["case_id"]), str(row["frame"])): float(row["slice_mm"]) for row in table.to_dict("records")}
    asset = ModelKind.slices_of(arm)
