"""Slices that another program has made: which are taken, as what, and which are refused in words."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from gan.generation.from_folder import check_folder, folder_digest, import_slices, read_donors, summarise_folder
from gan.generation.transplant import take_slices
from gan.training.config import SynthesisConfig
from imaging.augmentation.recipe import AugmentConfig
from imaging.augmentation.varied import write_varied_slices
from imaging.slices.mixing import write_training_set
from imaging.slices.regions import RegionConfig
from imaging.slices.store import SliceStore, SliceStoreWriter, StoreAttributes
from imaging.studies.leakage import ALLOWED_UNKNOWN, UNKNOWN, donors_note, find_leaks, leaks_in_words
from imaging.studies.split import FoldSplit
from tests.gan.conftest import SIZE, draw_slices
from tests.imaging.small_stores import rows

SPLIT = FoldSplit(0, ("P0", "P1", "P2"), ("P3",), ("P4",))
REGION = RegionConfig(size_px=SIZE)
COUNT = 12
FULL = 65535


@pytest.fixture
def real(tmp_path):
    return store(tmp_path / "real.h5", *draw_slices(15, 1), case_id=np.repeat([f"P{n}" for n in range(5)], 3))


@pytest.fixture
def made():
    """Images in half precision, as a store keeps them, and their masks."""
    images, masks = draw_slices(COUNT, 2)
    return images.astype(np.float16), masks


def store(path, images, masks, origin="real", extras=None, **columns):
    table = rows(len(masks), origin=origin, **columns)
    attributes = StoreAttributes("emidec", SIZE, 1.0, "rule", "source", {}, 0, "1", {})
    path.parent.mkdir(parents=True, exist_ok=True)
    with SliceStoreWriter(path, attributes, tuple(extras or {})) as writer:
        writer.append(images, masks, table, **(extras or {}))
    return SliceStore.open(path)


def synthetic_store(path, made, extras=None, **columns):
    told = {"case_id": np.resize(["P0", "P1", "P2"], COUNT), "donor_ids": "P0;P2", "replica": np.arange(COUNT)}
    return store(path, *made, origin="synthetic", extras=extras, **{**told, **columns})


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def png_pairs(folder, made, donors="P0;P1", names=None):
    """Write PNG of 16 bits with masks, all of the same donors; none says who they are where `donors` is empty."""
    names = names or [f"{number:03d}" for number in range(len(made[0]))]
    for name, image, mask in zip(names, *made, strict=True):
        save(folder / "images" / f"{name}.png", np.rint(image.astype(np.float64) * FULL).astype(np.uint16))
        save(folder / "masks" / f"{name}.png", mask)
    if donors:
        (folder / "donors.csv").write_text("slice,donors\n" + "".join(f"{name},{donors}\n" for name in names))
    return folder


def config(root, **more):
    return SynthesisConfig(method="folder", root=root, spacing_mm=more.pop("spacing_mm", (1.0, 1.0)), **more)


def take(tmp_path, asked, real, split=SPLIT, region=REGION):
    """Import a folder as `lesion_masks` does."""
    import_slices(tmp_path / "taken.h5", asked, real, split, region, 5, "1")
    return SliceStore.open(tmp_path / "taken.h5")


def training_set(path, masks, real):
    """What is trained on, made of imported or drawn slices as the graph does."""
    path.mkdir()
    take_slices(masks, path / "slices.h5", 5, "1")
    taken = SliceStore.open(path / "slices.h5")
    write_varied_slices(path / "varied.h5", taken, AugmentConfig(), 5, 1, "1")
    write_training_set(path / "set.h5", [(real, 6), (SliceStore.open(path / "varied.h5"), 8)], 5, "1")
    return SliceStore.open(path / "set.h5")


def content(found):
    return [found.images().tobytes(), found.masks().tobytes(), found.rows.to_csv()]


def test_a_slice_store_gives_the_same_training_set_byte_for_byte(tmp_path, real, made):
    built_in = synthetic_store(tmp_path / "DIR" / "fold_0" / "slices.h5", made)
    taken = take(tmp_path, config(tmp_path / "DIR", spacing_mm=None), real)
    assert content(taken) == content(built_in)
    sets = [training_set(tmp_path / name, masks, real) for name, masks in (("own", built_in), ("folder", taken))]
    assert content(sets[0]) == content(sets[1])
    assert taken.attributes.parameters["folder"] == folder_digest(config(tmp_path / "DIR"), 0)


def test_png_of_16_bits_give_the_same_slices_to_one_part_in_65535(tmp_path, real, made):
    taken = take(tmp_path, config(png_pairs(tmp_path / "DIR", made)), real)
    assert np.abs(taken.images().astype(np.float64) - made[0]).max() <= 1 / FULL
    np.testing.assert_array_equal(taken.masks(), made[1])
    assert set(taken.rows["donor_ids"]) == {"P0;P1"}
    assert set(taken.rows["case_id"]) == {"P0"}
    assert find_leaks(taken.rows, SPLIT).empty
    built_in = synthetic_store(tmp_path / "built_in.h5", made)
    sets = [training_set(tmp_path / name, masks, real) for name, masks in (("own", built_in), ("folder", taken))]
    np.testing.assert_array_equal(sets[0].masks(), sets[1].masks())
    apart = np.abs(sets[0].images().astype(np.float64) - sets[1].images())
    assert apart.max() <= 1e-3  # half precision of what the recipe has varied
    assert apart.mean() <= 1 / FULL


@pytest.mark.parametrize("kind", ["tif", "nii.gz"])
def test_pages_and_volumes_are_slices_of_one_file(tmp_path, real, made, kind):
    images, masks = made[0].astype(np.float32), made[1]
    if kind == "tif":
        for name, volume in (("images", images), ("masks", masks)):
            first, *others = map(Image.fromarray, volume)
            (tmp_path / "DIR" / name).mkdir(parents=True)
            first.save(tmp_path / "DIR" / name / "all.tif", save_all=True, append_images=others)
    else:
        affine = np.diag([-1.0, -1.0, 8.0, 1.0])
        for name, volume in (("images", images), ("labels", masks)):
            (tmp_path / "DIR" / name).mkdir(parents=True)
            nibabel.save(nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine), tmp_path / "DIR" / name / "all.nii.gz")
    (tmp_path / "DIR" / "donors.csv").write_text("slice,donors,recipient\nall,P0; P1,P2\n")
    asked = config(tmp_path / "DIR", spacing_mm=(1.0, 1.0) if kind == "tif" else None)
    taken = take(tmp_path, asked, real)
    np.testing.assert_array_equal(taken.images(), made[0])
    np.testing.assert_array_equal(taken.masks(), masks)
    assert taken.rows["slice_index"].tolist() == list(range(COUNT))
    assert set(taken.rows["case_id"]) == {"P2"}
    assert set(taken.rows["donor_ids"]) == {"P0;P1;P2"}


def test_slices_of_another_size_are_brought_to_1_mm_and_cut_around_their_ventricle(tmp_path, real, made):
    image, mask = np.zeros((60, 80), np.uint16), np.zeros((60, 80), np.uint8)
    half = made[1][0][::2, ::2]  # pixels of 2 mm, a ventricle off centre
    image[5:21, 50:66], mask[5:21, 50:66] = made[0][0][::2, ::2].astype(np.float64) * FULL, half
    save(tmp_path / "DIR" / "images" / "a.png", image)
    save(tmp_path / "DIR" / "masks" / "a.png", mask)
    (tmp_path / "DIR" / "donors.csv").write_text("slice,donors\n*,P1\n")
    still = RegionConfig(size_px=SIZE, jitter_mm=0)
    taken = take(tmp_path, config(tmp_path / "DIR", spacing_mm=(2.0, 2.0)), real, region=still)
    assert taken.masks().shape == (1, SIZE, SIZE)
    assert np.count_nonzero(taken.masks()) == pytest.approx(4 * np.count_nonzero(mask), rel=0.1)
    middle = [places.mean() for places in np.nonzero(taken.masks()[0])]
    assert middle == pytest.approx([SIZE / 2, SIZE / 2], abs=1.5)


def test_intensities_of_a_scanner_are_brought_to_a_window_as_a_studys(tmp_path, real, made):
    folder = tmp_path / "DIR"
    for name, image, mask in zip("abc", *(part[:3] for part in made), strict=True):
        save(folder / "images" / f"{name}.png", (image.astype(np.float64) * 900).astype(np.uint16))
        save(folder / "masks" / f"{name}.png", mask)
    (folder / "donors.csv").write_text("slice,donors\n*,P0\n")
    with pytest.raises(
        InputError, match=r"DIR: the brightest pixel of 3 slices is 0\.01\d+ of the files' scale; .*=window"
    ):
        take(tmp_path, config(folder), real)
    assert not (tmp_path / "taken.h5").exists()
    images = take(tmp_path, config(folder, intensities="window"), real).images()
    assert [(image == 0).mean() for image in images] == pytest.approx([0.02] * 3, abs=0.01)
    assert [(image == 1).mean() for image in images] == pytest.approx([0.02] * 3, abs=0.01)


def test_unknown_donors_are_refused_like_test_patients_unless_allowed_by_hand(tmp_path, real, made):
    folder = png_pairs(tmp_path / "DIR", made, donors="")
    (folder / "donors.csv").write_text("slice,donors\n000,P0\n001.png,unknown\nimages/002.png,P0;P4\n")
    taken = take(tmp_path, config(folder), real)
    leaks = find_leaks(taken.rows, SPLIT)
    assert len(leaks) == COUNT - 1
    told = leaks_in_words(leaks, SPLIT)
    assert (
        f"{UNKNOWN} (donors nobody has told: name them in donors.csv, or allow them by synthesis.donors=unknown" in told
    )
    assert f"{COUNT - 2} rows" in told
    assert "P4 (test, 1 rows)" in told
    assert donors_note(taken.rows.iloc[:1], "fold 0") == ()
    allowed = take(tmp_path, config(folder, donors="unknown"), real)
    assert set(allowed.rows["case_id"]) == {"P0", ALLOWED_UNKNOWN}
    assert leaks_in_words(find_leaks(allowed.rows, SPLIT), SPLIT) == "P4 (test, 1 rows)"
    assert donors_note(allowed.rows, "fold 0")[0].startswith(
        f"Donors unknown: of {COUNT - 2} of {COUNT} synthetic slices of fold 0 nobody has told which patients"
    )
    assert summarise_folder(allowed)["donors_unknown"].sum() == COUNT - 2


def test_of_few_slices_each_is_varied_several_times(tmp_path, made):
    slices = synthetic_store(tmp_path / "slices.h5", made)
    write_varied_slices(tmp_path / "varied.h5", slices, AugmentConfig(), 5, 1, "1", count=2 * COUNT + 3)
    varied = SliceStore.open(tmp_path / "varied.h5")
    assert len(varied) == 2 * COUNT + 3
    assert varied.rows["replica"].tolist() == list(range(2 * COUNT + 3))
    assert not np.array_equal(varied.images()[0], varied.images()[COUNT])
    with pytest.raises(InputError, match=r"5 variants of 12 slices leave some out; ask for as many at least"):
        write_varied_slices(tmp_path / "few.h5", slices, AugmentConfig(), 5, 1, "1", count=5)


def faults(folder):
    """Each fault that is laid on three sound pairs of PNG, and what is said of it."""
    mask, image = folder / "masks" / "001.png", folder / "images" / "001.png"

    def put_mask(value):
        def change():
            pixels = np.asarray(Image.open(mask)).copy()
            pixels[3, 4] = value
            save(mask, pixels)

        return change

    def other_shape():
        save(mask, np.asarray(Image.open(mask))[:, :-2])

    def palette():
        picture = Image.fromarray(np.asarray(Image.open(mask)))
        picture.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10, 10, 10, 200, 90, 90, 10])
        picture.save(mask)

    def smeared():
        grown = Image.fromarray((np.asarray(Image.open(mask)) * 60).astype(np.uint8))
        grown.resize((64, 64), Image.Resampling.BICUBIC).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(mask)

    def twice():
        shutil.copy(image, folder / "images" / "009.png")
        shutil.copy(mask, folder / "masks" / "009.png")

    def donors(text):
        return lambda: (folder / "donors.csv").write_text(text)

    told = "slice,donors\n"
    return {
        "shape": (
            other_shape,
            r"masks/001\.png: mask \(1, 32, 30\) and image 001\.png \(1, 32, 32\) .* differ in shape; give",
        ),
        "255": (
            put_mask(255),
            r"masks/001\.png: label values \[255\] are not in label set 'emidec' \(0 to 4\); correct the",
        ),
        "palette": (palette, r"masks/001\.png: \d+ pixels are coloured; .* are no colours of label set 'emidec': save"),
        "smeared": (
            smeared,
            r"masks/001\.png: label values \[.*\] are not in .*saved as JPEG or resampled; correct the mask",
        ),
        "no mask": (mask.unlink, r"images/001\.png: its mask is missing; add it, or remove this file"),
        "no image": (image.unlink, r"masks/001\.png: its image is missing; add it, or remove this file"),
        "two files": (
            lambda: save(folder / "images" / "001.tif", np.asarray(Image.open(image))),
            r"001\.png, .*001\.tif: are 2 files for the image of one slice; keep one of them",
        ),
        "twice": (
            twice,
            r"images/009\.png: is the same slice as .*images/001\.png, pixel by pixel; remove one of them",
        ),
        "jpeg": (
            lambda: (folder / "images" / "x.jpg").write_bytes(b"jpeg"),
            r"images/x\.jpg: is not read; save it as PNG, TIFF or NIfTI in images or masks, or move it away",
        ),
        "stranger": (
            donors(told + "000,P0;P9\n"),
            r"donors\.csv, line 2: 'P9' is none of the source's 5 patients; write patients as studies",
        ),
        "no such slice": (
            donors(told + "0001,P0\n"),
            r"donors\.csv, line 2: there is no slice '0001' \(did you mean '001'\?\); correct the name",
        ),
        "named twice": (
            donors(told + "001,P0\n001.png,P1\n"),
            r"line 3: names slice '001' a second time; keep one line",
        ),
        "columns": (
            donors("name;patient\n"),
            r"donors\.csv: has the columns name;patient; write slice,donors and perhaps",
        ),
        "cut off": (lambda: image.write_bytes(image.read_bytes()[:60]), r"images/001\.png: not a readable PNG or TIFF"),
    }


@pytest.mark.parametrize("fault", list(faults(Path("DIR"))))
def test_a_fault_is_one_line_and_nothing_is_taken(tmp_path, real, made, fault):
    folder = png_pairs(tmp_path / "DIR", [part[:3] for part in made])
    change, message = faults(folder)[fault]
    change()
    with pytest.raises(InputError, match=message) as raised:
        take(tmp_path, config(folder), real)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("*taken*"))


def test_a_spacing_is_asked_for_and_never_assumed(tmp_path, real, made):
    asked = config(png_pairs(tmp_path / "DIR", made), spacing_mm=None)
    for read in (lambda: take(tmp_path, asked, real), lambda: check_folder(asked, [0])):
        with pytest.raises(
            InputError, match=r"images/000\.png: spacing unknown: .*--set synthesis\.spacing_mm=\[1,1\]"
        ):
            read()
    with pytest.raises(InputError, match=r"synthesis\.spacing_mm: spacing .* is not plausible; correct it"):
        check_folder(config(tmp_path / "DIR", spacing_mm=(150.0, 1.0)), [0])


def test_what_is_known_beforehand_is_refused_before_a_run(tmp_path, made):
    folder = png_pairs(tmp_path / "DIR", made, donors="")
    with pytest.raises(
        InputError, match=r"DIR: which patients 000, 001, .* were made from is unknown; write it into .*csv"
    ):
        check_folder(config(folder), [0])
    check_folder(config(folder, donors="unknown"), [0])
    with pytest.raises(InputError, match=r"gone: does not exist; give the folder that holds images/NAME"):
        check_folder(config(tmp_path / "gone"), [])


def test_each_fold_has_its_folder_and_no_other_is_taken_for_it(tmp_path, made):
    root = tmp_path / "DIR"
    png_pairs(root / "fold_1", made)
    png_pairs(root / "fold_2", [part[:4] for part in made])
    check_folder(config(root), [1, 2])
    assert folder_digest(config(root), 1) != folder_digest(config(root), 2)
    with pytest.raises(InputError, match=r"DIR: holds fold_1, fold_2, no fold_0; add it, or run another fold"):
        check_folder(config(root), [1, 0])
    with pytest.raises(InputError, match=r"is the folder of fold 1, but fold 0 is run; give the folder above"):
        check_folder(config(root / "fold_1"), [0])
    png_pairs(root, made)
    with pytest.raises(InputError, match=r"DIR: holds slices beside fold_1, fold_2; keep those or these"):
        check_folder(config(root), [1])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"case_id": "P8"}, r"slices\.h5: names 'P8', none of the source's 5 patients; give slices made from these"),
        ({"donor_ids": "P0;Q1"}, r"slices\.h5: names 'Q1', none of the source's 5 patients"),
    ],
)
def test_a_store_of_strangers_is_refused(tmp_path, real, made, columns, message):
    synthetic_store(tmp_path / "DIR" / "slices.h5", made, **columns)
    with pytest.raises(InputError, match=message):
        take(tmp_path, config(tmp_path / "DIR"), real)


def test_a_store_of_real_slices_is_refused_and_one_of_another_fold_leaks(tmp_path, real, made):
    with pytest.raises(InputError, match=r"real\.h5: holds real slices; give a store of synthetic ones"):
        take(tmp_path, config(tmp_path / "real.h5"), real)
    synthetic_store(tmp_path / "other.h5", made, case_id="P4")
    leaks = find_leaks(take(tmp_path, config(tmp_path / "other.h5"), real).rows, SPLIT)
    assert leaks_in_words(leaks, SPLIT) == f"P4 (test, {COUNT} rows)"


def test_a_changed_file_is_another_folder_and_a_moved_one_is_not(tmp_path, made):
    first = folder_digest(config(png_pairs(tmp_path / "DIR", made)), 0)
    shutil.move(tmp_path / "DIR", tmp_path / "MOVED")
    folder = tmp_path / "MOVED"
    assert folder_digest(config(folder), 0) == first
    (folder / "donors.csv").write_text("slice,donors\n*,P0\n")
    second = folder_digest(config(folder), 0)
    save(folder / "masks" / "003.png", made[1][4])
    assert len({first, second, folder_digest(config(folder), 0)}) == 3


def test_holes_say_where_a_slice_was_painted(tmp_path, real, made):
    folder = png_pairs(tmp_path / "DIR", [part[:3] for part in made])
    holes = (made[1][:3] >= 3).astype(np.uint8)
    for number, hole in enumerate(holes[:2]):
        save(folder / "holes" / f"{number:03d}.png", hole * 255)
    with pytest.raises(InputError, match=r"images/002\.png: has no hole while others have; add it to .*holes"):
        take(tmp_path, config(folder), real)
    save(folder / "holes" / "002.png", holes[2] * 100 + np.eye(SIZE, dtype=np.uint8))
    with pytest.raises(
        InputError, match=r"holes/002\.png: holds 0, 1, 100.*; a hole is 0 where a slice is the camera's"
    ):
        take(tmp_path, config(folder), real)
    save(folder / "holes" / "002.png", holes[2])
    np.testing.assert_array_equal(take(tmp_path, config(folder), real).extra("hole"), holes)


def test_donors_of_all_other_slices_stand_in_one_line(tmp_path):
    path = tmp_path / "donors.csv"
    path.write_text("\ufeffSlice,Donors\nb,P1\n*,P0;P2\n\n", encoding="utf-8")
    donors = read_donors(path, ["a", "b"], ["P0", "P1", "P2"])
    assert donors.of("b") == ("", ("P1",))
    assert donors.of("a") == ("", ("P0", "P2"))
    assert read_donors(tmp_path / "none.csv", []).of("a") == ("", ())


def test_the_method_needs_its_folder_and_refuses_nothing_again(tmp_path):
    with pytest.raises(ValueError, match=r"give it with --set synthesis\.root=DIR"):
        SynthesisConfig(method="folder")
    with pytest.raises(ValueError, match=r"set synthesis\.refuse=false"):
        SynthesisConfig(method="folder", root=tmp_path, refuse=True)
