"""Finished folders are read only as their records say: what was edited, cut short or exchanged is refused by name."""

import ast
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import assets.parts.inputs as inputs
from assets.champion import read_candidate
from assets.comparison import _training
from assets.scores import staleness
from common.errors import InputError
from common.files import known_digest, write_json
from engine.champions import Candidate, ChampionBook
from engine.finished import Finished, checked_file, checked_model
from engine.forge import Forge
from pipeline.cli import app
from pipeline.commands.export import export
from pipeline.commands.models import ModelName, load_model
from pipeline.commands.run import dice_table
from pipeline.commands.seen_patients import Trained, seen_patients
from pipeline.commands.trials import TrialBench
from runtime.compute import choose_compute
from runtime.model_folder import read_weights
from segmentation.comparison.arms import ScoredTable
from segmentation.model_kind import ModelKind
from segmentation.networks.table import build_network
from segmentation.training.start_weights import start_from
from tests.pipeline.sealed import seal
from tests.pipeline.toy_models import CONFIG, write_member

ROOT = Path(__file__).parents[2]
MODEL = "attention_res_unet_real_only"
KIND = ModelKind.parse(MODEL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "halsr_net_real_only_scores" / "fold_0"
    place.mkdir(parents=True)
    (place / "scores.csv").write_text("case_id,value\nP1,0.123\n")
    return seal(place, "halsr_net_real_only_scores")


def test_a_recorded_file_is_handed_out(folder: Path) -> None:
    finished = Finished.open(folder, "scores")
    assert finished.holds("scores.csv")
    assert finished.file("scores.csv") == folder / "scores.csv"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("case_id,value\nP1,0.999\n", "is not the file it wrote: edited, cut short or exchanged"),
        ("case_id,va", "is not the file it wrote: edited, cut short or exchanged"),
        (None, "is missing"),
    ],
)
def test_another_file_is_refused_with_the_asset_to_make_again(folder: Path, content: str | None, fault: str) -> None:
    path = folder / "scores.csv"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as error:
        Finished.open(folder, "scores").file("scores.csv")
    asset = "'halsr_net_real_only_scores'"
    assert str(error.value) == f"{path}: {fault}, says the record of {asset}; rematerialise the asset {asset}"


def test_a_result_that_was_made_anew_meanwhile_is_not_called_damaged(folder: Path) -> None:
    finished = Finished.open(folder, "scores")
    (folder / "scores.csv").write_text("case_id,value\nP1,0.2\n")
    seal(folder, "halsr_net_real_only_scores")
    with pytest.raises(InputError, match=r"scores.csv: was replaced while in use; start again"):
        finished.file("scores.csv")


def test_files_that_nobody_recorded_are_neither_read_nor_refused(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    finished = Finished.open(folder, "scores")
    assert not finished.holds("notes.txt")
    assert checked_file(folder / "notes.txt").read_text() == "mine"
    finished.file("scores.csv")
    with pytest.raises(InputError, match=r"notes.txt: is none of the files it wrote"):
        finished.file("notes.txt")


def test_an_untouched_file_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "scores.csv"
    long_ago = time.time() - 60
    os.utime(path, (long_ago, long_ago))
    monkeypatch.setattr("common.files._AT_REST_NS", -1)
    first, opened = known_digest(path), []
    monkeypatch.setattr(Path, "open", lambda *values: opened.append(values))
    assert known_digest(path) == first
    assert not opened


def test_a_file_that_changes_within_a_tick_of_the_clock_is_seen(folder: Path) -> None:
    path = folder / "scores.csv"
    status, first = path.stat(), known_digest(path)
    path.write_text(path.read_text().replace("0.123", "0.999"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert known_digest(path) != first


def break_file(path: Path) -> None:
    """Change one byte, length and form unchanged."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "model_card.json"])
def test_no_command_uses_a_model_whose_files_are_others(tmp_path: Path, name: str) -> None:
    member = write_member(tmp_path, 0, 0)
    break_file(member / name)
    model = ModelName.parse("emidec/tiny/attention_res_unet/real_only")
    with pytest.raises(InputError, match=rf"{name}: is not the file it wrote.*rematerialise the asset '{MODEL}'"):
        load_model(tmp_path, model, None, None, choose_compute("cpu", "fp32"), None)
    with pytest.raises(InputError, match=rf"{name}: is not the file it wrote.*rematerialise the asset '{MODEL}'"):
        export(tmp_path, str(model), "torch_export", tmp_path / "out")


def test_weights_of_another_seed_are_not_predicted_with(tmp_path: Path) -> None:
    first, second = write_member(tmp_path, 0, 0), write_member(tmp_path, 0, 1)
    shutil.copy(second / "weights.safetensors", first / "weights.safetensors")
    environment = {"SCARFORGE_HOME": str(tmp_path)}
    arguments = ["export", "--model", "emidec/tiny/attention_res_unet/real_only", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--format", "torch_export"], env=environment)
    assert isinstance(result.exception, InputError)
    assert "weights.safetensors: is not the file it wrote" in str(result.exception)


def test_a_damaged_localiser_is_not_used(tmp_path: Path) -> None:
    write_member(tmp_path, 0, 0)
    break_file(tmp_path / "emidec" / "tiny" / "lv_localiser" / "fold_0" / "weights.safetensors")
    model = ModelName.parse("emidec/tiny/attention_res_unet/real_only")
    with pytest.raises(InputError, match=r"rematerialise the asset 'lv_localiser'"):
        load_model(tmp_path, model, None, None, choose_compute("cpu", "fp32"), None)


def test_a_copied_model_folder_is_held_to_its_record(tmp_path: Path) -> None:
    copied = shutil.copytree(write_member(tmp_path, 0, 0), tmp_path / "elsewhere")
    assert checked_model(copied) == copied
    break_file(copied / "weights.safetensors")
    with pytest.raises(InputError, match=rf"weights.safetensors: is not the file it wrote.*'{MODEL}'"):
        checked_model(copied)


def test_a_model_folder_without_a_record_is_held_to_the_digest_in_its_card(tmp_path: Path) -> None:
    first, second = write_member(tmp_path, 0, 0), write_member(tmp_path, 0, 1)
    copied = shutil.copytree(first, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("record.json"))
    assert checked_model(copied) == copied
    assert read_weights(copied)
    shutil.copy(second / "weights.safetensors", copied)
    with pytest.raises(InputError, match=r"is not the file that its model_card.json was written for"):
        start_from(build_network(CONFIG.network, 5), copied, CONFIG.network)
    card = json.loads((copied / "model_card.json").read_text())
    write_json(copied / "model_card.json", {key: value for key, value in card.items() if key != "weights_sha256"})
    assert read_weights(copied)  # nothing tells that they are others


def put(forge: Forge, asset: str, names: dict[str, str], seed: int | None = None) -> Path:
    place = forge.folder(asset, 0, seed)
    place.mkdir(parents=True)
    for name, content in names.items():
        (place / name).write_text(content)
    return seal(place, asset)


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    """A workspace in which every file that is read has been edited since it was recorded."""
    found = Forge(profile="tiny", home=str(tmp_path))
    files = {"studies": "studies.h5", "patient_split": "patient_split.json"}
    files |= dict.fromkeys(("real_slices", "augmented_slices", "lesion_masks"), "slices.h5")
    places = [put(found, asset, {name: "x"}) for asset, name in files.items()]
    places.append(put(found, "synthetic_slices", {"slices.h5": "x", inputs.VARIED_SLICES: "x"}))
    model = ("config.json", "model_card.json", "weights.safetensors", "history.csv")
    places.append(put(found, MODEL, dict.fromkeys(model, "x"), 0))
    scored = dict.fromkeys(("scores.csv", "scores_without_unsure_lesions.csv", "manifest.json"), "{}")
    places.append(put(found, f"{MODEL}_scores", scored, 0))
    places.append(put(found, "comparison", {"comparison.md": "# 0.1"}))
    for place in places:
        for path in place.iterdir():
            if path.name != "record.json":
                path.write_text("edited")
    return found


READERS = {
    "studies": lambda forge: inputs.open_studies(forge),
    "patient_split": lambda forge: inputs.open_split(forge, 0),
    "real_slices": lambda forge: inputs.open_slices(forge, "real_slices", 0),
    "synthetic_slices": lambda forge: inputs.open_varied_slices(forge, 0),
    "model card": lambda forge: inputs.model_card(forge, MODEL, 0, 0),
    "comparison report": lambda forge: _training(forge, KIND, 0, 0),
    "stale scores": lambda forge: staleness(forge, KIND, 0, 0),
    "champion": lambda forge: read_candidate(forge, KIND, 0),
    "trials": lambda forge: TrialBench.open(forge, 0),
    "external test": lambda forge: seen_patients(Trained("model", forge.workspace, frozenset({0})), "phantom"),
    "summary": lambda forge: dice_table([forge.finished(f"{MODEL}_scores", 0, 0).file("scores.csv")]),
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_refuses_an_edited_file(forge: Forge, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.tracking.store.prepare_store", lambda *_, **__: None)
    with pytest.raises(InputError, match=r"is not the file it wrote.*rematerialise the asset"):
        READERS[name](forge)


def test_a_champions_table_that_was_edited_is_not_compared_with(tmp_path: Path) -> None:
    from tests.segmentation.comparison.test_promotion import scored

    table = ScoredTable(scored({"cavity": 0.9}, seeds=(0,)).scores, {})
    book = ChampionBook(tmp_path)
    crowned = book.crown(Candidate(ModelKind("halsr_net", "real_only"), "1", table, {}, {}), "the first", "today")
    path = tmp_path / crowned.scores
    assert len(book.scored(crowned).scores) == len(table.scores)
    path.write_text(path.read_text().replace("0.9", "0.1"))
    with pytest.raises(InputError, match=rf"{path.name}: cannot be read .it is not the table that the champion was"):
        book.scored(book.champion(ModelKind("halsr_net", "real_only")))  # type: ignore[arg-type] # there is one


# These ask for a folder's place to make it, to tell whether it is there, or to fetch it; what they read, they open.
_MAY_ASK_FOR_PLACES = {
    "assets/comparison.py",
    "assets/scores.py",
    "engine/tracking/links.py",
    "engine/forge.py",
    "pipeline/commands/scores.py",
    "pipeline/commands/models.py",
    "pipeline/commands/seen_patients.py",
    "pipeline/commands/trials.py",
}


def asks_for_a_place(path: Path) -> bool:
    calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return any(isinstance(call, ast.Attribute) and call.attr in ("folder", "place") for call in calls)


def test_no_reader_goes_past_the_record() -> None:
    modules = (path for room in ("assets", "pipeline") for path in (ROOT / room).glob("*.py"))
    found = {path.relative_to(ROOT).as_posix() for path in modules if asks_for_a_place(path)}
    assert found <= _MAY_ASK_FOR_PLACES, "read finished files by `forge.finished(asset, fold, seed).file(name)`"
