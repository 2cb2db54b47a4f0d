"""Both arms of a finished fold, and the commands that train on them."""

import pytest

from common.errors import InputError
from engine.forge import Forge
from pipeline.commands import export as module
from pipeline.commands.export import export_dataset


@pytest.fixture
def written(monkeypatch):
    """Stands in for the writing of one arm, which `tests/imaging/slices/test_nnunet.py` looks at."""

    def write(forge, fold, asset, folder):
        folder.mkdir(parents=True)
        (folder / "asset").write_text(asset)

    monkeypatch.setattr(module, "_write", write)


def test_both_arms_stand_under_their_numbers_and_the_commands_are_told(tmp_path, written, capsys):
    folders = export_dataset(
        Forge(source="mscmr_lge", profile="quick", home=str(tmp_path)), 2, "nnunet", tmp_path / "raw"
    )
    assert [folder.name for folder in folders] == [
        "Dataset501_MscmrLgeQuickFold2RealOnly",
        "Dataset502_MscmrLgeQuickFold2RealPlusGan",
    ]
    assert [(folder / "asset").read_text() for folder in folders] == [
        "training_set_real_only",
        "training_set_real_plus_gan",
    ]
    told = capsys.readouterr().out
    for folder in folders:
        assert f"cp {folder}/splits_final.json {tmp_path}/raw/preprocessed/{folder.name}/" in told
    assert "nnUNetv2_plan_and_preprocess -d 501 502 -c 2d --verify_dataset_integrity" in told
    assert f"scarforge compare --reference {folders[0]}/labelsTs" in told


def test_a_number_that_is_taken_is_refused_and_another_serves(tmp_path, written):
    (tmp_path / "Dataset502_Other").mkdir()
    forge = Forge(home=str(tmp_path))
    with pytest.raises(
        InputError, match="Dataset502_Other: is data set 502 already; remove it, or give another --output"
    ):
        export_dataset(forge, 0, "nnunet", tmp_path)
    assert export_dataset(forge, 0, "nnunet", tmp_path, 11)[1].name == "Dataset012_PhantomDemoFold0RealPlusGan"


def test_what_is_not_finished_is_named(tmp_path):
    with pytest.raises(InputError, match="studies"):
        export_dataset(Forge(home=str(tmp_path)), 0, "nnunet", tmp_path / "out")
    assert not list((tmp_path / "out").glob("Dataset*"))


@pytest.mark.parametrize(
    ("form", "first", "message"), [("monai", 501, "choose one of nnunet"), ("nnunet", 999, "from 1 to 999")]
)
def test_an_unknown_format_or_number_is_refused(tmp_path, form, first, message):
    with pytest.raises(InputError, match=message):
        export_dataset(Forge(home=str(tmp_path)), 0, form, tmp_path, first)
