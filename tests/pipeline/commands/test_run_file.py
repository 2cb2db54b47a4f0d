"""One file instead of ten `--set`: what is found in a folder of studies, written down, and run."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from common.errors import InputError
from engine.forge import Forge
from engine.run_config import default_profile, forge_fields
from engine.settings import load_settings
from pipeline.cli import app
from pipeline.commands import run as run_command
from pipeline.commands.run_file import chosen_run, look_into, read_run_file
from tests.imaging import fake_emidec

NOTHING = (None, None, None, None, (), ())  # none of the command's options


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    for name in ("Case_P001", "Case_P002"):
        fake_emidec.write_case(folder, name)
    (folder / "Case_P003" / "Images").mkdir(parents=True)
    (folder / "Case_P003" / "Images" / "Case_P003.nii.gz").write_bytes(b"not an image")
    return folder


def test_a_folder_is_told_with_its_patients_spacing_and_what_is_left_out(root):
    found = look_into(root)
    assert found.source == "emidec"
    told = "\n".join(found.lines())
    assert f"{root}: taken for emidec" in told
    assert "2 patients, 2 studies" in told
    assert "left out: 1" in told
    assert "Case_P003" in told
    assert "2 patients are too few: five folds need at least 5" in told


def test_a_patient_under_two_names_is_told(tmp_path, root):
    assert "voxel for voxel" not in "".join(look_into(root).lines())
    image = fake_emidec.image_of(fake_emidec.label_map("Case_P001"))
    for name in ("Case_P001", "Case_P007"):
        fake_emidec.write_case(tmp_path, name, image, fake_emidec.label_map("Case_P001"))
    told = list(look_into(tmp_path).lines())
    for what in ("image", "label map"):
        assert (
            f"note: The same {what}, voxel for voxel, has several names; keep one of each: Case_P001 = Case_P007."
        ) in told


def test_what_is_written_is_what_is_run(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["init", str(root)])
    assert done.exit_code == 0, done.output
    wanted = chosen_run(None, *NOTHING)
    assert (wanted.source, wanted.root, wanted.profile) == ("emidec", root, "quick")
    assert (wanted.folds, wanted.seeds, wanted.overrides) == ((0, 1, 2, 3, 4), (), ())
    with pytest.raises(InputError, match="is there already; give --force"):
        CliRunner().invoke(app, ["init", str(root)], catch_exceptions=False)


def test_a_folder_of_no_format_is_told_where_to_read_on(tmp_path):
    with pytest.raises(InputError, match=r"is none of the formats emidec, acdc, .*docs/formats.md"):
        look_into(tmp_path)


def written(folder: Path, text: str) -> Path:
    path = folder / "scarforge.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_settings_may_be_nested_or_dotted_and_options_come_before_them(tmp_path):
    text = (
        "source: nifti\nroot: studies\nfolds: [0, 2]\nseeds: [4]\n"
        "settings:\n  training_slices: 600\n  pix2pix.steps: 50\n"
        "  source: {label_set: cine, label_values: {85: cavity, 170: myocardium}}\n"
    )
    wanted = chosen_run(written(tmp_path, text), None, None, "tiny", "all", ["training_slices=700"], [])
    assert (wanted.root, wanted.folds, wanted.seeds) == (tmp_path / "studies", (0, 1, 2, 3, 4), (4,))
    settings = load_settings(wanted.profile, wanted.overrides, wanted.seeds)
    assert (settings.profile, settings.training_slices, settings.pix2pix.steps) == ("tiny", 700, 50)
    assert settings.source.label_values == {85: "cavity", 170: "myocardium"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sauce: emidec", "'sauce' does not exist; did you mean source"),
        ("folds: 7", "'folds': 7 is none of 0 to 4; or write all"),
        ("folds: some", "'folds': .*or all"),
        ("seeds: [-1]", "'seeds': .*greater than or equal to 0"),
        ("just words", "holds no keys such as source and root"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        read_run_file(written(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"--config .*none.yaml: cannot be read"):
        read_run_file(tmp_path / "none.yaml")


def test_only_the_phantom_takes_its_own_profile(monkeypatch):
    assert (default_profile("phantom"), default_profile("emidec")) == ("demo", "quick")
    assert chosen_run(None, "emidec", *NOTHING[1:]).profile == "quick"
    assert chosen_run(None, "phantom", *NOTHING[1:]).profile == "demo"
    assert forge_fields({"SCARFORGE_SOURCE": "acdc"})["profile"] == "quick"
    assert forge_fields({})["profile"] == "demo"


def test_all_folds_are_run_though_one_fails_and_a_failure_of_all_ends_it():
    ran = []

    def run(fold):
        ran.append(fold)
        if fold == 1:
            raise InputError("pix2pix: diverged")
        return Forge()

    with pytest.raises(InputError, match="1 of 5 folds failed, the others are done: fold 1: pix2pix: diverged"):
        run_command.run_folds(range(5), run)
    assert ran == [0, 1, 2, 3, 4]

    def fails(fold):
        ran.append(fold)
        raise InputError("studies: no such folder")

    ran.clear()
    with pytest.raises(InputError, match="no such folder"):
        run_command.run_folds(range(5), fails)
    assert ran == [0, 1]


def test_cropped_pictures_are_recognised_and_their_spacing_is_asked_for(tmp_path):
    from PIL import Image

    for part, values in (("images", np.arange(64) * 3), ("masks", np.repeat([0, 1, 2, 3], 16))):
        (tmp_path / part).mkdir()
        for patient in range(2):
            for number in range(2):
                pixels = np.tile(values, (64, 1)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / f"P{patient}_slice{number}.png")
    found = look_into(tmp_path)
    assert found.source == "image_pairs"
    assert any("pictures carry no spacing" in note for note in found.notes)
    assert found.open_settings == {"spacing_mm": [10.0, 1.0, 1.0]}
