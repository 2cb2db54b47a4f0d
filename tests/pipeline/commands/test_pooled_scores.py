"""All finished folds as one table: who counts, what is refused, and what is written."""

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from assets.scores import scores_key
from assets.studies import patient_split, studies
from common.errors import InputError
from common.files import write_json
from engine.forge import Forge
from engine.outcome import Outcome
from engine.record import produce
from engine.tracking.store import prepare_store
from imaging.labels import EMIDEC_LABELS
from pipeline.cli import app, main
from pipeline.commands.scores import pool_scores
from segmentation.comparison.arms import ScoredTable
from segmentation.comparison.text import pool_folds
from segmentation.model_kind import ModelKind
from segmentation.scoring.scores import ScoredVolume, ScoreIdentity, score_table, write_scores
from tests.pipeline.sealed import reseal

HEALTHY = np.array([[[1, 2, 2, 2, 2, 2]]], np.uint8)
ILL = np.array([[[1, 2, 2, 3, 3, 4]]], np.uint8)
MODEL = "attention_res_unet_real_only"
MANIFEST = {"profile": "tiny", "source": "phantom"}


def fold(number, drawn_in_healthy=HEALTHY, network="attention_res_unet"):
    spacing = (10.0, 1.0, 1.0)
    volumes = [
        ScoredVolume(f"N{number}", "", HEALTHY, drawn_in_healthy, spacing),
        ScoredVolume(f"P{number}", "", ILL, ILL, spacing),
    ]
    own = score_table(volumes, ScoreIdentity(number, network, "real_only", 0), EMIDEC_LABELS)
    blank = [volume._replace(prediction=np.zeros_like(volume.reference)) for volume in volumes]
    yardstick = score_table(blank, ScoreIdentity(number, "all_background"), EMIDEC_LABELS)
    return ScoredTable(pd.concat([own, yardstick], ignore_index=True), MANIFEST)


def one(table, **values):
    for name, value in values.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_patients_of_all_folds_count_once_each():
    pooled = pool_folds([fold(0), fold(1, drawn_in_healthy=ILL)])
    row = one(pooled.summary, network="attention_res_unet", tissue="infarction", rule="official")
    assert (row["mean"], row["patients"]) == (0.75, 4)  # one healthy heart was given an infarct
    found = one(pooled.detection, network="attention_res_unet", tissue="infarction")
    assert (found["sensitivity"], found["ill"], found["specificity"], found["healthy"]) == (1.0, 2, 0.5, 2)
    blank = one(pooled.detection, network="all_background", tissue="no_reflow")
    assert (blank["sensitivity"], blank["specificity"]) == (0.0, 1.0)


def test_seeds_are_averaged_not_counted_as_patients():
    both = [fold(0), fold(0, drawn_in_healthy=ILL)]
    both[1] = ScoredTable(both[1].scores.assign(seed=both[1].scores["seed"].replace(0, 1)), MANIFEST)
    found = one(pool_folds(both).detection, network="attention_res_unet", tissue="infarction")
    assert (found["specificity"], found["healthy"], found["ill"]) == (0.5, 1, 1)


def test_a_yardstick_that_stands_in_two_models_tables_counts_once():
    pooled = pool_folds([fold(0), fold(0, network="halsr_net")])
    assert one(pooled.detection, network="all_background", tissue="infarction")["healthy"] == 1


def test_folds_of_other_settings_are_refused():
    odd = ScoredTable(fold(1).scores, {**MANIFEST, "profile": "quick"})
    with pytest.raises(InputError, match="differ in profile"):
        pool_folds([fold(0), odd])


def test_without_scores_the_message_tells_how_to_make_some(tmp_path):
    with pytest.raises(InputError, match=r"no fold of emidec/quick has scores.*scarforge run --source emidec"):
        pool_scores(tmp_path, "emidec", "quick", None)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A workspace with studies and the scores of two folds, written as the assets write them."""
    forge = Forge(profile="tiny", home=str(tmp_path_factory.mktemp("home")))
    forge.workspace.home.mkdir(exist_ok=True)
    environment = pytest.MonkeyPatch()
    environment.delenv("MLFLOW_TRACKING_URI", raising=False)
    prepare_store(forge.tracking_uri(), artifact_root=forge.workspace.artifact_root)
    assert dg.materialize([studies, patient_split], resources={"forge": forge}).success
    for number in (0, 1):
        put(forge, "real_slices", number, None)
        put(forge, MODEL, number, 0)
        put_scores(forge, number)
    environment.undo()
    return forge.workspace.home


def put(forge, asset, number, seed, write=lambda _: None, key="key", content=""):
    def build(folder):
        write(folder)
        (folder / "content.txt").write_text(asset + content)
        return Outcome({}, run_id=f"{asset}{number}")

    produce(forge.folder(asset, number, seed), asset, key, build)


def put_scores(forge, number):
    name = f"{MODEL}_scores"
    key = scores_key(forge, ModelKind.parse(MODEL), number, 0, MANIFEST)
    put(forge, name, number, 0, lambda folder: write_tables(folder, fold(number)), key)


def write_tables(folder, table):
    for name in ("scores.csv", "scores_without_unsure_lesions.csv"):
        write_scores(folder / name, table.scores)
    write_json(folder / "manifest.json", MANIFEST)


def test_the_command_tells_of_the_finished_folds_and_writes_what_it_tells(home, tmp_path, monkeypatch):
    monkeypatch.setenv("SCARFORGE_HOME", str(home))
    result = CliRunner().invoke(app, ["scores", "--profile", "tiny", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "scores.md").read_text()
    assert text.strip() == result.output.strip()
    assert f"{MODEL}: folds 0, 1." in text
    assert text.index("## As drawn") < text.index("## Without unsure lesions")
    assert "| attention_res_unet | real_only | infarction | 1.000 of 2" in " ".join(text.split())
    runs = pd.read_csv(tmp_path / "runs.csv")
    assert list(runs["scores"]) == [f"{MODEL}_scores0", f"{MODEL}_scores1"]
    assert list(runs["training"]) == [f"{MODEL}0", f"{MODEL}1"]
    for name in ("summary", "detection", "summary_without_unsure_lesions", "detection_without_unsure_lesions"):
        assert len(pd.read_csv(tmp_path / f"{name}.csv"))


def test_a_table_that_was_edited_or_cut_short_is_not_tabulated(home, monkeypatch, capsys):
    monkeypatch.setenv("SCARFORGE_HOME", str(home))
    monkeypatch.setattr("sys.argv", ["scarforge", "scores", "--profile", "tiny"])
    table = home / "phantom" / "tiny" / f"{MODEL}_scores" / "fold_1" / "seed_0" / "scores.csv"
    written = table.read_text()
    for changed in (written.replace(",1.0,", ",0.999,"), written[: len(written) // 2]):
        assert changed != written
        table.write_text(changed)
        with pytest.raises(SystemExit) as ended:
            main()
        (line,) = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2
        assert line.startswith(f"scarforge: {table}: is not the file it wrote: edited, cut short or exchanged")
        assert line.endswith(f"; rematerialise the asset '{MODEL}_scores'")
    table.write_text(written)
    assert pool_scores(home, "phantom", "tiny", None)


def test_a_table_that_one_fold_lacks_is_not_shown_and_the_fold_is_named(home, tmp_path):
    lacking = home / "phantom" / "tiny" / f"{MODEL}_scores" / "fold_0" / "seed_0" / "scores_without_unsure_lesions.csv"
    lacking.unlink()
    reseal(lacking.parent)
    (tmp_path / "summary_without_unsure_lesions.csv").write_text("of an earlier call")
    text = pool_scores(home, "phantom", "tiny", tmp_path).text
    assert f"Not there yet for {MODEL}_scores fold 0 seed 0" in text
    assert {path.name for path in tmp_path.iterdir()} == {
        *("scores.md", "runs.csv", "summary.csv", "detection.csv"),
        ".scarforge",
    }


def test_scores_of_a_model_that_was_trained_anew_since_are_left_out_and_named(home, tmp_path):
    forge = Forge(profile="tiny", home=str(home))
    put(forge, MODEL, 1, 0, key="trained anew", content=" of today")
    text = pool_scores(home, "phantom", "tiny", None).text
    assert f"{MODEL}: folds 0." in text
    assert f"Left out, rerun them: {MODEL}_scores fold 1 seed 0, made of another {MODEL} than the present one" in text
    put(forge, MODEL, 0, 0, key="trained anew", content=" of today")
    with pytest.raises(
        InputError, match=rf"no scores of phantom/tiny are of what lies there now: {MODEL}_scores fold 0"
    ):
        pool_scores(home, "phantom", "tiny", None)
