"""What reads files that others may have written: for each reader, sound files to begin with, and how it is called.

`sealed` puts a changed content back behind what guards it (compression, a checksum), so that changes reach what lies
behind.
"""

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SCORES_HEAD = "fold,network,training_set,seed,case_id,frame,slice_index,rule,tissue,metric,value,unit\n"
PLAN = """\
name: trial
profile: tiny
folds: [0]
seeds: &x [0]
arms:
  plain: {training_set: real_only}
  other: {set: ["attention_res_unet.steps=3"], against: plain}
"""


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        name: Of the file that it is given.
        read: Is given the path of the file.
        seeds: Write sound files; each is given a path.
        opened: What a sound file's content is changed as, such as the inflated bytes.
        sealed: The inverse.
        slow: Each input starts a process.
    """

    name: str
    read: Callable[[Path], object]
    seeds: tuple[Callable[[Path], object], ...]
    opened: Callable[[bytes], bytes] = field(default=bytes)
    sealed: Callable[[bytes], bytes] = field(default=bytes)
    slow: bool = False


def _nifti(path):
    from imaging.volumes.nifti import read_nifti

    volume = read_nifti(path)
    return volume.image


def _write_nifti(path):
    from tests.imaging import fake_emidec

    fake_emidec.write_nifti(path, np.arange(6 * 5 * 3, dtype=np.int16).reshape(6, 5, 3))


def _dicom(path):
    from imaging.volumes.dicom.slice_file import read_dicom_slice

    return read_dicom_slice(path, scanned=True).read_pixels()


def _write_dicom(path):
    from tests.imaging import fake_dicom

    (written,) = fake_dicom.write_stack(path.parent, fake_dicom.stack(1, 6, 5), name=path.stem)
    written.replace(path)


def _write_deflated(path):
    import pydicom

    _write_dicom(path)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


def _meta_end(content):
    return 144 + int.from_bytes(content[140:144], "little")  # after the group's length (0002,0000), as written


def _inflated(content):
    end = _meta_end(content)
    return content[:end] + zlib.decompress(content[end:], -zlib.MAX_WBITS)


def _deflated(content):
    end = min(_meta_end(content), len(content))
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return content[:end] + packer.compress(content[end:]) + packer.flush()


def _mat(path):
    from imaging.volumes.matlab import open_mat

    file = open_mat(path, ["image"])
    return file.read("image")


def _write_mat5(path):
    from scipy.io import savemat

    savemat(path, {"image": np.arange(24.0).reshape(4, 6), "about": "text"})


def _write_mat73(path):
    from tests.imaging import fake_lvquan

    fake_lvquan.write_version73(path, {"image": np.arange(24.0).reshape(4, 6)})


def _picture(path):
    from imaging.volumes.image_files import page_count, read_pixels

    page_count(path)
    return read_pixels(path)


def _write_picture(path, mode="L"):
    from PIL import Image

    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert(mode).save(path)


def _write_pages(path):
    from PIL import Image

    pages = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (1, 2)]
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="tiff_deflate")


def _store(path):
    from imaging.slices.store import SliceStore

    with SliceStore.open(path) as store:
        return store.images(), store.masks()


def _write_store(path):
    from tests.imaging import small_stores

    small_stores.write(path, np.stack([small_stores.ring("infarct")] * 2)).close()


def _archive(path):
    from imaging.studies.archive import StudyArchive

    archive = StudyArchive.open(path)
    return [archive.load(*key) for key in list(archive.keys())], archive.table(), archive.clinical()


def _write_archive(path):
    from imaging.labels import EMIDEC_LABELS
    from imaging.studies.archive_writer import write_studies
    from tests.segmentation.localiser_studies import study

    write_studies(path, [study(number) for number in range(5)], EMIDEC_LABELS, "made")


def _with_checksum(content):
    import hashlib

    from imaging.studies.archive import FORMAT, USER_BLOCK

    digest = hashlib.sha256(content[USER_BLOCK:]).hexdigest()
    return f"{FORMAT} sha256 {digest}\n".encode().ljust(USER_BLOCK, b"\0") + content[USER_BLOCK:]


def _checkpoint(path):
    from common.config import FrozenConfig
    from runtime.checkpoint import checkpoint_step, load_checkpoint

    checkpoint_step(path.parent)
    return load_checkpoint(path.parent, FrozenConfig(), {"seed": 1})


def _write_checkpoint(path):
    import torch

    from common.config import FrozenConfig
    from runtime.checkpoint import save_checkpoint

    save_checkpoint(path.parent, FrozenConfig(), {"seed": 1}, {"step": 1, "weights": torch.ones(4), "names": ["a"]})


def _zip_summed(content):
    """Bring the checksums of a zip's stored parts to their content."""
    changed, at = bytearray(content), 0
    sums = {}
    while (at := changed.find(b"PK\x03\x04", at)) >= 0 and at + 30 <= len(changed):
        size, names = int.from_bytes(changed[at + 18 : at + 22], "little"), changed[at + 26 : at + 30]
        start = at + 30 + int.from_bytes(names[:2], "little") + int.from_bytes(names[2:], "little")
        sums[at] = zlib.crc32(changed[start : start + size]).to_bytes(4, "little")
        changed[at + 14 : at + 18] = sums[at]
        at += 4
    at = 0
    while (at := changed.find(b"PK\x01\x02", at)) >= 0 and at + 46 <= len(changed):
        place = int.from_bytes(changed[at + 42 : at + 46], "little")
        changed[at + 16 : at + 20] = sums.get(place, changed[at + 16 : at + 20])
        at += 4
    return bytes(changed)


def _weights(path):
    from runtime.model_folder import read_weights

    return read_weights(path.parent)


def _write_weights(path):
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.ones(3, 2), "b": torch.zeros(1)}, path)


def _card(path):
    from runtime.model_card import ModelCard

    card = ModelCard.read(path.parent)
    return card.says("weights_sha256")


def _write_card(path):
    from runtime.model_card import ModelCard

    path.write_text(json.dumps({"network": "attention_res_unet", "fold": 0, "seed": 1, "label_set": "emidec"}))
    ModelCard.read(path.parent)


def _split(path):
    from imaging.studies.split import read_split

    return read_split(path, 0)


def _write_split(path):
    from imaging.studies.split import FoldSplit, write_splits

    write_splits(path, [FoldSplit(0, ("a", "b"), ("c",), ("d",))])


def _record(path):
    from engine.record import read_record

    record = read_record(path.parent, "studies")
    return record.behind, record.files


def _write_record(path):
    from tests.pipeline.sealed import seal

    seal(path.parent, "studies", "v")


def _boxes(path):
    from imaging.studies.preparation import read_boxes

    return read_boxes(path)


def _scores(path):
    from segmentation.scoring.scores import read_scores

    return read_scores(path)


def _regions(path):
    from imaging.slices.regions import read_regions

    return read_regions(path)


def _write_regions(path):
    from imaging.slices.regions import REGION_COLUMNS

    path.write_text(",".join(REGION_COLUMNS) + "\n" + ",".join(["1"] * len(REGION_COLUMNS)) + "\n")


def _contour(path):
    from imaging.sources.sunnybrook import contour_mask

    return contour_mask(path, (32, 32))


def _plan(path):
    from pipeline.commands.experiment.plan import read_plan

    return read_plan(path)


def _run_file(path):
    from common.config import read_yaml_file

    return repr(read_yaml_file(path, str(path), "give one", "holds no keys"))


def _override(path):
    from engine.settings import load_settings

    text = path.read_bytes().decode("utf-8", "replace")
    return load_settings("tiny", text.splitlines()[:3])


def _texts(*texts):
    return tuple(lambda path, text=text: path.write_text(text) for text in texts)


TARGETS = {
    "nifti": Target("x.nii", _nifti, (_write_nifti,)),
    "nifti_gz": Target("x.nii.gz", _nifti, (_write_nifti,), gzip.decompress, lambda raw: gzip.compress(raw, 1)),
    "nifti_gz_raw": Target("x.nii.gz", _nifti, (_write_nifti,)),
    "dicom": Target("x.dcm", _dicom, (_write_dicom,)),
    "dicom_deflated": Target("x.dcm", _dicom, (_write_deflated,), _inflated, _deflated),
    "mat5": Target("x.mat", _mat, (_write_mat5,), slow=True),
    "mat73": Target("x.mat", _mat, (_write_mat73,)),
    "png": Target("x.png", _picture, (_write_picture, lambda path: _write_picture(path, "P"))),
    "tiff": Target("x.tif", _picture, (_write_pages,)),
    "store": Target("slices.h5", _store, (_write_store,)),
    "archive": Target("studies.h5", _archive, (_write_archive,), sealed=_with_checksum),
    "checkpoint": Target("last.pt", _checkpoint, (_write_checkpoint,), sealed=_zip_summed),
    "weights": Target("weights.safetensors", _weights, (_write_weights,)),
    "card": Target("model_card.json", _card, (_write_card,)),
    "split": Target("patient_split.json", _split, (_write_split,)),
    "record": Target("record.json", _record, (_write_record,)),
    "boxes": Target("boxes.csv", _boxes, _texts("case_id,frame,top,left,bottom,right\nP1,,1,2,3,4\n")),
    "scores": Target("scores.csv", _scores, _texts(SCORES_HEAD + "0,a,b,0,P1,,,official,infarct,dice,0.5,\n")),
    "regions": Target("regions.csv", _regions, (_write_regions,)),
    "contour": Target("IM-0001-0059-icontour-manual.txt", _contour, _texts("1.0 2.5\n3 4\n10 20\n")),
    "plan": Target("plan.yaml", _plan, _texts(PLAN)),
    "run_file": Target("scarforge.yaml", _run_file, _texts("source: emidec\na: &b [1, 0x1f, 1e-3]\nc: {d: *b}\n")),
    "override": Target("overrides", _override, _texts("pix2pix.steps=5\ntraining_slices=20\n")),
}
