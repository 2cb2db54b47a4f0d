"""The file format of packs: what it gives back, and what it refuses before anything of it is used."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save

from common.errors import InputError
from runtime.model_card import ModelCard, read_model_json
from runtime.model_folder import read_weights, weights_digest
from runtime.pack import (
    UNSEALED,
    Manifest,
    Pack,
    Part,
    halved,
    is_pack_name,
    named_packs,
    salted,
    start_place,
    write_pack,
)

KEY = "scarforge_pack"
WEIGHTS = {
    "conv.weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "conv.bias": np.array([0.1, 70000.0], np.float32),
    "norm.count": np.array(3, np.int64),
}


def manifest(**said):
    part = Part(source="emidec", profile="tiny", fold=2, config={"steps": 3}, card={"label_set": "emidec", "fold": 2})
    content = {"name": "small", "scarforge": "1", "source": "emidec", "profile": "tiny", "network": "net"}
    content |= {"training_set": "real_only", "label_set": "emidec", "networks": [part], "salt": "s"}
    return Manifest.model_validate({**content, "patients": [], "data": [], **said})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.safetensors"
    write_pack(path, manifest(), {f"network_0.weights.{name}": halved(one) for name, one in WEIGHTS.items()})
    return path


def test_a_path_into_a_pack_is_a_model_folder(file):
    folder = file / "network_0"
    assert Pack.open(file).folders("network") == [folder]
    assert read_model_json(folder, "config.json") == {"steps": 3}
    assert ModelCard.read(folder).fold == 2
    weights = read_weights(folder)
    assert weights["conv.weight"].dtype.is_floating_point
    np.testing.assert_allclose(weights["conv.weight"], WEIGHTS["conv.weight"], atol=1e-3)
    np.testing.assert_array_equal(weights["conv.bias"], WEIGHTS["conv.bias"])  # vectors keep their precision
    assert int(weights["norm.count"]) == 3
    assert weights_digest(folder) == Pack.open(file).digest
    with pytest.raises(InputError, match=r"network_1/config.json: cannot be read"):
        read_model_json(file / "network_1", "config.json")


def test_the_same_content_gives_the_same_bytes(file, tmp_path):
    again = tmp_path / "again" / "small.safetensors"
    write_pack(again, manifest(), {f"network_0.weights.{name}": halved(one) for name, one in WEIGHTS.items()})
    assert again.read_bytes() == file.read_bytes()


def test_the_sum_of_a_filter_survives_half_precision():
    filters = np.random.default_rng(0).normal(0.1, 0.02, (64, 32, 3, 3)).astype(np.float32)
    half = halved(filters).astype(np.float32)
    np.testing.assert_allclose(half, filters, atol=2e-4)  # within two steps of half precision
    apart = np.abs(half.sum(axis=(1, 2, 3)) - filters.sum(axis=(1, 2, 3)))
    assert apart.max() < 1e-4
    each = filters.astype(np.float16).astype(np.float32)
    assert apart.max() < np.abs(each.sum(axis=(1, 2, 3)) - filters.sum(axis=(1, 2, 3))).max()


def test_what_half_precision_cannot_hold_stays():
    assert halved(np.full((200, 100), 1e5, np.float32)).dtype == np.float32
    assert halved(np.full((200, 100), 0.3, np.float32)).dtype == np.float16
    assert halved(np.ones((200, 100), np.int64)).dtype == np.int64


def test_filters_of_full_resolution_keep_their_precision():
    small = np.random.default_rng(0).normal(size=(32, 32, 3, 3)).astype(np.float32)
    assert halved(small) is small
    assert halved(np.concatenate([small, small])).dtype == np.float16


def test_every_bit_counts(file):
    content = file.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        file.write_bytes(bytes(changed))
        with pytest.raises(InputError, match=r"small\.safetensors: "):
            Pack.open(file)


@pytest.mark.parametrize("left", [0, 5, 8, 200, -1])
def test_a_pack_that_is_cut_short_is_refused(file, left):
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(InputError, match=r"small\.safetensors: is not taken: .*get it again"):
        Pack.open(file)


def sealed(path, header, body=b""):
    """Write a header as a pack's own writer would seal it, whatever it says."""
    import hashlib

    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + body
    digest = hashlib.sha256(content).hexdigest()
    path.write_bytes(content.replace(UNSEALED.encode(), digest.encode(), 1))


def described(**changes):
    said = manifest(**changes).model_dump(mode="json")
    return {"__metadata__": {KEY: json.dumps(said)}}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"network_0.weights.a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}, "announces"),
        ({"../../x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, r"a tensor called '\.\./\.\./x'"),
        ({"network_0/weights": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "a tensor called"),
        ({"network_0.weights.a": {"dtype": "BOOL", "shape": [4], "data_offsets": [0, 4]}}, "is not described"),
        ({"network_0.weights.a": {"shape": [1]}}, "is not described"),
        ({"network_0.weights.a": 3}, "is not described"),
    ],
)
def test_hostile_tensors_are_refused_by_name(tmp_path, tensors, message):
    path = tmp_path / "hostile.safetensors"
    sealed(path, described() | tensors, b"\0" * 4)
    with pytest.raises(InputError, match=f"hostile.safetensors: is not taken: .*{message}"):
        Pack.open(path)


def test_tensors_that_lie_outside_the_file_are_refused(tmp_path):
    path = tmp_path / "hostile.safetensors"
    tensor = {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}
    sealed(path, described() | {"network_0.weights.a": tensor}, b"\0" * 4)
    with pytest.raises(InputError, match="its tensors cannot be read"):
        read_weights(path / "network_0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../../etc/passwd"}, r"it calls itself '\.\./\.\./etc/passwd'"),
        ({"name": "Upper"}, "it calls itself"),
    ],
)
def test_hostile_names_are_refused(tmp_path, changes, message):
    path = tmp_path / "hostile.safetensors"
    sealed(path, described(**changes))
    with pytest.raises(InputError, match=message):
        Pack.open(path)


@pytest.mark.parametrize("config", [{"network": {"widths": [10**9]}}, {"input_px": 10**6}, {"hidden": 10**8}])
def test_sizes_that_no_model_has_are_refused(tmp_path, config):
    part = Part(source="emidec", profile="tiny", fold=0, config=config, card={})
    path = tmp_path / "hostile.safetensors"
    sealed(path, described(networks=[part]))
    with pytest.raises(InputError, match="network_0 announces"):
        Pack.open(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({}, "its header is no JSON|name no ScarForge model"),
        ({"__metadata__": {"format": "pt"}}, "name no ScarForge model"),
        ({"__metadata__": {KEY: json.dumps({"schema_version": 2})}}, "is a pack of schema 2, this version reads 1"),
        ({"__metadata__": {KEY: json.dumps({"schema_version": 1})}}, "names no SHA-256 of its own"),
        ({"__metadata__": {KEY: "[" * 100_000}}, "its header is no JSON"),
        ({"__metadata__": {KEY: json.dumps({"schema_version": 1, "sha256": UNSEALED})}}, "its metadata do not fit"),
    ],
)
def test_what_is_no_pack_is_refused(tmp_path, header, message):
    path = tmp_path / "foreign.safetensors"
    sealed(path, header)
    with pytest.raises(InputError, match=f"foreign.safetensors: .*({message})"):
        Pack.open(path)


def test_another_programs_weights_are_no_pack(tmp_path):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(save({"a": np.zeros(3, np.float32)}))
    with pytest.raises(InputError, match="name no ScarForge model"):
        Pack.open(path)


def test_a_file_that_is_too_large_is_not_read(file, monkeypatch):
    monkeypatch.setattr("runtime.pack.MOST_BYTES", 100)
    with pytest.raises(InputError, match="at most 0 are read"):
        Pack.open(file)


def test_the_start_of_a_training_may_be_a_packs_name_or_place(file, tmp_path):
    assert start_place(None, tmp_path) is None
    assert start_place(file.with_suffix("").relative_to(tmp_path), tmp_path) == file / "network_0"
    assert start_place(file, tmp_path / "none") == file / "network_0"
    elsewhere = tmp_path / "nothing"
    assert start_place(elsewhere, tmp_path) == elsewhere


def test_names_and_hashes(tmp_path):
    assert is_pack_name("cine_attention")
    assert not any(map(is_pack_name, ("", "a/b", "..", "-a", "A", "a" * 65)))
    assert salted("a", "Case_P001") != salted("b", "Case_P001")
    (tmp_path / ".half.safetensors").write_bytes(b"")
    assert named_packs(tmp_path).get(".half") is None
