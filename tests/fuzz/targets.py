"""What reads files that others may have written: for each reader, sound files to begin with, and how it is called.

`sealed` puts a changed content back behind what guards it (compression, a checksum), so that changes reach what lies
behind.
"""

import gzip
import json
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
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
        slow: Each input starts a process, or loads networks.
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
    from imaging.volumes.dicom.slice_file import DicomSlice, read_scanned_slices

    return [one.read_pixels() for one in read_scanned_slices(path) if isinstance(one, DicomSlice)]


def _write_dicom(path):
    from tests.imaging import fake_dicom

    (written,) = fake_dicom.write_stack(path.parent, fake_dicom.stack(1, 6, 5), name=path.stem)
    written.replace(path)


def _write_enhanced(path):
    from tests.imaging import fake_dicom

    fake_dicom.write_enhanced(path, fake_dicom.stack(2, 6, 5), [{"place": place} for place in range(2)])


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


def _png_summed(content):
    """Bring the checksums of a PNG's chunks to their content."""
    changed, at = bytearray(content), 8
    while at + 12 <= len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4], "big")
        if end + 4 > len(changed):
            break
        changed[end : end + 4] = zlib.crc32(changed[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(changed)


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


def _pack(path):
    """Take a pack as `models add`, `models list`, `predict --probabilities` and `external-test` do."""
    from pipeline.commands.models import ModelName, load_model
    from pipeline.commands.packs import _checked, _dice_of
    from pipeline.commands.seen_patients import seen_by_packs
    from runtime.compute import choose_compute
    from segmentation.prediction.familiarity import check_familiarity
    from segmentation.prediction.study import interval_ml, tempered

    said = _checked(path.parent, str(path), path)
    model = load_model(path.parent, ModelName.of_pack(path), None, None, choose_compute("cpu", "fp32"), None, True)
    images = np.linspace(0, 1, 2 * 32 * 32, dtype=np.float32).reshape(2, 32, 32)
    probabilities = model.segmenter.probabilities(images)
    temperature = model.calibration.temperature if model.calibration else 1.0
    tempered(probabilities, temperature)
    boxes = [localiser.predict_image_box(images) for localiser in model.localisers]
    labels = probabilities.argmax(axis=1).astype(np.uint8)
    features = [model.segmenter.features(images)] * len(model.familiarity)
    check_familiarity(features, model.familiarity, images, labels)
    seen_by_packs(path.parent, [model], None)
    return _dice_of(said), boxes, interval_ml({"cavity": 1.0}, model.intervals)


def _write_pack(path):
    import torch

    from runtime.pack import Manifest, write_pack
    from segmentation.localiser.config import LocaliserConfig
    from segmentation.localiser.networks import build_finder
    from segmentation.networks.table import build_network
    from segmentation.prediction.plausibility import MEASURES
    from tests.pipeline.toy_models import CONFIG, REGION

    localiser = LocaliserConfig(input_px=16, fov_mm=32, map_widths=(2, 4))
    torch.manual_seed(0)
    modules = {"network_0": build_network(CONFIG.network, 5), "localiser_0": build_finder(localiser)}
    tensors = {
        f"{part}.weights.{name}": one.numpy()
        for part, module in modules.items()
        for name, one in module.state_dict().items()
    }
    for name, size in (("features", CONFIG.network.bottleneck), ("contrast", 6)):
        cloud = {"mean": np.zeros(size), "scale": np.ones(size), "covariance": np.eye(size), "others": np.ones(5)}
        tensors |= {f"network_0.familiarity.{name}.{part}": one.astype(np.float32) for part, one in cloud.items()}
    seen = {
        f"network_0.familiarity.seen.{side}": np.full(len(MEASURES), 1, np.float32) for side in ("lowest", "highest")
    }
    tensors |= seen
    place = {"source": "emidec", "profile": "tiny", "fold": 0}
    region = REGION.model_dump(mode="json") | {"fold": 0}
    parts = [
        place | {"config": CONFIG.model_dump(mode="json"), "card": {"label_set": "emidec", "region": region}},
        place | {"config": localiser.model_dump(mode="json"), "card": {}},
    ]
    content = {
        "name": "small",
        "scarforge": "1",
        "source": "emidec",
        "profile": "tiny",
        "network": "attention_res_unet",
    }
    content |= {"training_set": "real_only", "label_set": "emidec", "networks": parts[:1], "localisers": parts[1:]}
    content |= {"salt": "s", "data": [{"name": "EMIDEC", "licence": "CC", "attribution": "A"}], "about": "# small"}
    content |= {"patients": [{"what": "model", "source": "emidec", "seen": {"0": ["a"]}, "unseen": {"0": ["b"]}}]}
    content |= {"calibration": {"temperature": 1.5, "after": [{"confidence": 0.9, "accuracy": 0.8, "pixels": 3}]}}
    content |= {"intervals": {"cavity": {"half_width_ml": 3.5, "coverage": 0.9, "volumes": 10}}}
    content |= {"steps": [{"step": "unsure_lesions", "applied": True, "why": "measured"}]}
    score = {"mean": 0.5, "low": None, "high": None, "patients": 3, "folds": 1}
    content |= {"results": [{"rule": "positive", "tissue": "infarct", **score}]}
    write_pack(path, Manifest.model_validate(content), tensors)


def _announced(content):
    """Return a pack's header, which changes are drawn in: its tensors and, as text within, its metadata."""
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


def _as_pack(header):
    """Put a header before the numbers of the sound pack, with the SHA-256 that its metadata then have to name."""
    import hashlib
    import re

    from runtime.pack import UNSEALED

    whole = _sound_pack()
    numbers = whole[8 + len(_announced(whole)) :]
    unsealed = re.sub(rb"[0-9a-f]{64}", UNSEALED.encode(), header, count=1)
    content = len(unsealed).to_bytes(8, "little") + unsealed + numbers
    return content.replace(UNSEALED.encode(), hashlib.sha256(content).hexdigest().encode(), 1)


@cache
def _sound_pack():
    with tempfile.TemporaryDirectory() as folder:
        _write_pack(Path(folder, "small.safetensors"))
        return Path(folder, "small.safetensors").read_bytes()


def _said(content):
    """Return what a pack says as JSON, unquoted, which changes reach without breaking the header's own text."""
    return json.loads(_announced(content))["__metadata__"]["scarforge_pack"].encode()


def _saying(said):
    header = json.loads(_announced(_sound_pack()))
    header["__metadata__"]["scarforge_pack"] = said.decode("utf-8", "replace")
    return _as_pack(json.dumps(header).encode())


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
    "dicom_enhanced": Target("x.dcm", _dicom, (_write_enhanced,)),
    "dicom_deflated": Target("x.dcm", _dicom, (_write_deflated,), _inflated, _deflated),
    "mat5": Target("x.mat", _mat, (_write_mat5,), slow=True),
    "mat73": Target("x.mat", _mat, (_write_mat73,)),
    "png": Target("x.png", _picture, (_write_picture, lambda path: _write_picture(path, "P")), sealed=_png_summed),
    "tiff": Target("x.tif", _picture, (_write_pages,)),
    "store": Target("slices.h5", _store, (_write_store,)),
    "archive": Target("studies.h5", _archive, (_write_archive,), sealed=_with_checksum),
    "checkpoint": Target("last.pt", _checkpoint, (_write_checkpoint,), sealed=_zip_summed),
    "weights": Target("weights.safetensors", _weights, (_write_weights,)),
    "pack": Target("small.safetensors", _pack, (_write_pack,), _announced, _as_pack, slow=True),
    "pack_manifest": Target("small.safetensors", _pack, (_write_pack,), _said, _saying, slow=True),
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
