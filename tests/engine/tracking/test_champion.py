"""The asset `champion` over a workspace of finished scores, as every run meets it at its end."""

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from assets.champion import champion
from assets.comparison import finished_scores
from assets.scores import scores_key, staleness
from common.errors import InputError
from common.files import write_json
from engine.forge import Forge
from engine.links import note_mlflow
from engine.outcome import Outcome, number
from engine.record import produce
from engine.tracking.links import compare_facts, saved_links
from engine.tracking.store import connect, tracking_places
from engine.tracking.tracker import track_night
from segmentation.model_kind import ModelKind, model_kinds
from segmentation.scoring.scores import write_scores
from tests.pipeline.sealed import reseal
from tests.segmentation.comparison.test_promotion import scored

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")]
KIND, NIGHT = "halsr_net_real_only", {"scarforge/night": "2026-01-01", "scarforge/started_by": "nightly"}


@pytest.fixture
def forge(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Forge:
    """A workspace whose studies are read and split."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = Forge(source="phantom", profile="tiny", home=str(prepared))
    for asset in SHARED:
        finish(found.folder(asset, 0), asset, "1")
    return found


@pytest.fixture
def two_seeds(forge: Forge) -> Forge:
    """The same, for two trainings of each model."""
    return Forge(source="phantom", profile="tiny", home=forge.home, seeds=[0, 1])


SHARED = ("studies", "patient_split", "real_slices")


def finish(
    place: Path,
    asset: str,
    content: str,
    facts: Any = None,
    write: Any = None,
    key: str = "",
    run_id: str = "",
    behind: dict[str, str] | None = None,
) -> None:
    def build(folder: Path) -> Outcome:
        (folder / "content.txt").write_text(content)
        if write:
            write(folder)
        return Outcome(facts or {}, run_id=run_id, behind=behind or {})

    produce(place, asset, key or content, build)


def train(forge: Forge, version: str, dice: float, kind: str = KIND, run_id: str = "") -> None:
    """Put a model and its scores where training and scoring put them."""
    for seed in forge.settings().seeds:
        train_seed(forge, version, dice, ModelKind.parse(kind), run_id, seed)


def train_seed(forge: Forge, version: str, dice: float, kind: ModelKind, run_id: str, seed: int) -> None:
    card = {"network": kind.network, "training_set": kind.training_set, "seed": seed}
    place = forge.folder(kind.name, 0, seed)
    behind = {forge.key(asset, 0): forge.version(asset, 0) for asset in SHARED}
    finish(place, kind.name, version, write=lambda folder: write_json(folder / "model_card.json", card), behind=behind)
    behind |= {forge.key(kind.name, 0, seed): forge.version(kind.name, 0, seed)}

    def write(folder: Path) -> None:
        table = scored({"cavity": 0.9, "infarct": dice}, seeds=(seed,)).scores
        write_scores(folder / "scores.csv", table.assign(network=kind.network, training_set=kind.training_set))
        write_json(folder / "manifest.json", forge.manifest())

    facts = {"dice/positive/infarct": number(dice)}
    key = scores_key(forge, kind, 0, seed, forge.manifest())
    finish(forge.folder(kind.scores, 0, seed), kind.scores, version, facts, write, key, run_id, behind)


def judge(forge: Forge, tags: dict[str, str] | None = None) -> tuple[dict[str, Any], bool]:
    """Materialise `champion` and give its metadata and whether its check passed."""
    result = dg.materialize([champion], resources={"forge": forge}, partition_key="0", tags=tags)
    (event,) = result.asset_materializations_for_node("champion")
    (check,) = result.get_asset_check_evaluations()
    return dict(event.metadata), check.passed


def reasons(metadata: dict[str, Any]) -> dict[str, str]:
    return {row.data["model"]: row.data["candidate"] for row in metadata["champions"].records}


def test_with_one_seed_the_page_says_that_the_first_model_stays(forge: Forge) -> None:
    train(forge, "one", 0.5)
    judge(forge)
    train(forge, "two", 0.7)
    metadata, passed = judge(forge)
    assert reasons(metadata)[KIND].startswith("not enough seeds: the first model stays; cavity ")
    assert not metadata["champions"].records[0].data["candidate_is_champion"]
    assert passed


def test_first_same_worse_and_better_candidates(two_seeds: Forge, capfd: pytest.CaptureFixture[str]) -> None:
    forge = two_seeds
    train(forge, "one", 0.5)
    metadata, passed = judge(forge)
    assert reasons(metadata) == {KIND: "the first model of its kind"}
    assert passed
    capfd.readouterr()
    judge(forge)
    assert "= champion" in capfd.readouterr().err  # found, not judged again
    train(forge, "two", 0.3)
    metadata, passed = judge(forge)
    assert reasons(metadata)[KIND].startswith("worse than the champion: infarct -0.200")
    assert not passed
    (fell,) = [row.data for row in metadata["tissues"].records if row.data["fell"]]
    assert (fell["tissue"], fell["candidate"]) == ("infarct", pytest.approx(0.3, abs=0.01))
    train(forge, "three", 0.7)
    metadata, passed = judge(forge)
    assert metadata["champions"].records[0].data["candidate_is_champion"]
    assert passed


def test_only_models_with_scores_of_todays_settings_are_judged(forge: Forge) -> None:
    train(forge, "one", 0.5)
    train(forge, "one", 0.5, kind="halsr_net_real_plus_gan")
    manifest = forge.folder("halsr_net_real_plus_gan_scores", 0, 0) / "manifest.json"
    manifest.write_text(manifest.read_text().replace("tiny", "demo"))
    reseal(manifest.parent)
    metadata, _ = judge(forge)
    assert set(reasons(metadata)) == {KIND}


def test_a_model_is_not_judged_by_the_scores_of_the_one_before_it(forge: Forge) -> None:
    train(forge, "one", 0.5)
    train(forge, "one", 0.5, kind="halsr_net_real_plus_gan")
    finish(forge.folder(KIND, 0, 0), KIND, "trained anew and not scored yet")
    metadata, _ = judge(forge)
    assert set(reasons(metadata)) == {"halsr_net_real_plus_gan"}


def test_the_comparison_leaves_out_scores_that_are_not_of_the_present_models_and_names_them(
    forge: Forge, capfd: pytest.CaptureFixture[str]
) -> None:
    for kind in model_kinds():
        train(forge, "one", 0.5, kind=kind.name)
    assert finished_scores(forge) == [(kind, 0, 0) for kind in model_kinds()]
    assert capfd.readouterr().err == ""
    finish(forge.folder(KIND, 0, 0), KIND, "trained anew and not scored yet")
    assert finished_scores(forge) == [(kind, 0, 0) for kind in model_kinds() if kind.network != "halsr_net"]
    told = capfd.readouterr().err
    assert f"fold 0 is left out until it is rerun: {KIND}_scores, seed 0: made of another {KIND} than the pre" in told
    assert told.count("left out") == 1


def test_scores_are_stale_for_one_reason_each(forge: Forge) -> None:
    place = (ModelKind.parse(KIND), 0, 0)
    assert staleness(forge, *place) == "not made yet"
    train(forge, "one", 0.5)
    assert staleness(forge, *place) == ""
    finish(forge.folder("real_slices", 0), "real_slices", "cut anew")
    assert staleness(forge, *place) == "made of another real_slices than the present one"
    manifest = forge.folder(f"{KIND}_scores", 0, 0) / "manifest.json"
    manifest.write_text(manifest.read_text().replace("tiny", "demo"))
    reseal(manifest.parent)
    assert staleness(forge, *place) == "made with other data, code or settings"
    shutil.rmtree(forge.folder(KIND, 0, 0))
    assert staleness(forge, *place) == f"{KIND} they were made of is gone"


def test_the_champion_follows_to_newer_scoring_rules_that_gave_it_the_same_scores(
    two_seeds: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge = two_seeds
    train(forge, "one", 0.5)
    judge(forge)
    for module in ("assets.champion", "assets.scores"):
        monkeypatch.setattr(f"{module}.scoring_version", lambda _: "newer")
    monkeypatch.setattr("segmentation.scoring.scores.RULES_VERSION", "newer")
    train(forge, "one", 0.5)
    judge(forge)
    train(forge, "two", 0.7)
    assert reasons(judge(forge)[0])[KIND].startswith("better than the champion")


def test_without_any_scores_the_message_says_what_to_materialise(forge: Forge) -> None:
    with pytest.raises(InputError, match=r"no model of fold 0 has scores .* materialise"):
        judge(forge)


def test_a_champion_that_was_moved_away_begins_anew(forge: Forge) -> None:
    train(forge, "one", 0.5)
    judge(forge)
    (forge.workspace.root / "champions").rename(forge.workspace.root / "old champions")
    train(forge, "two", 0.3)
    metadata, _ = judge(forge)
    assert reasons(metadata) == {KIND: "the first model of its kind"}


def test_a_tracking_server_that_is_away_stops_nothing(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    train(forge, "one", 0.5)
    metadata, passed = judge(forge, NIGHT)
    assert passed
    assert "mlflow_run" not in metadata


def test_two_nights_hold_the_same_figures_whether_or_not_anything_was_trained(forge: Forge) -> None:
    train(forge, "one", 0.5)
    judge(forge, NIGHT)
    judge(forge, {**NIGHT, "scarforge/night": "2026-01-02"})
    client = connect(tracking_places(Path(forge.home), {}).uri)
    experiment = client.get_experiment_by_name("scarforge").experiment_id
    nights = client.search_runs([experiment], "tags.stage = 'night'")
    assert {run.info.run_name for run in nights} == {"Night 2026-01-01, phantom tiny", "Night 2026-01-02, phantom tiny"}
    assert {run.info.status for run in nights} == {"FINISHED"}
    for run in nights:
        assert run.data.metrics == {"fold_0/halsr_net_real_only/dice/positive/infarct": 0.5}
    (promotion,) = client.search_runs([experiment], "tags.stage = 'promotion'")
    (first,) = [run for run in nights if run.data.tags["night"] == "2026-01-01"]
    assert promotion.data.tags["mlflow.parentRunId"] == first.info.run_id


def test_folds_that_end_together_all_leave_their_figures(forge: Forge) -> None:
    context = SimpleNamespace(run=SimpleNamespace(tags=NIGHT))
    folds = [threading.Thread(target=track_night, args=(context, forge, {f"fold_{k}": 0.5})) for k in (0, 1)]
    for fold in folds:
        fold.start()
    for fold in folds:
        fold.join()
    client = connect(tracking_places(Path(forge.home), {}).uri)
    experiment = client.get_experiment_by_name("scarforge").experiment_id
    (night,) = client.search_runs([experiment], "tags.stage = 'night'")
    assert night.data.metrics == {"fold_0": 0.5, "fold_1": 0.5}
    assert night.info.status == "FINISHED"
    assert not any(path.is_dir() for path in forge.workspace.spool.iterdir())


def test_the_installed_interface_still_has_that_page() -> None:
    import mlflow

    scripts = (Path(mlflow.__file__).parent / "server/js/build/static/js").glob("*.js")
    assert any('"/compare-runs"' in script.read_text(encoding="utf-8", errors="ignore") for script in scripts)


def test_each_network_has_a_link_to_both_arms_and_runs_that_mlflow_did_not_get_are_left_out(forge: Forge) -> None:
    train(forge, "one", 0.5, "halsr_net_real_only", "aa")
    train(forge, "one", 0.5, "halsr_net_real_plus_gan", "bb")
    train(forge, "one", 0.5, "attention_res_unet_real_only", "cc")
    train(forge, "one", 0.5, "attention_res_unet_real_plus_gan")
    facts = compare_facts(forge, [(kind, 0, 0) for kind in reversed(model_kinds())])
    assert list(facts) == ["compare_halsr_net_in_mlflow"]
    assert "runs=%5B%22aa%22%2C%22bb%22%5D" in facts["compare_halsr_net_in_mlflow"].value
    finish(forge.folder("comparison"), "comparison", "1", facts)
    page = facts["compare_halsr_net_in_mlflow"].value
    assert saved_links(forge) == {"halsr_net": f"http://127.0.0.1:5000/#/{page}"}
    note_mlflow(Path(forge.home), "http://127.0.0.1:5701")  # by a later `scarforge ui`
    assert saved_links(forge) == {"halsr_net": f"http://127.0.0.1:5701/#/{page}"}


def test_no_link_where_mlflow_is_away(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    train(forge, "one", 0.5, "halsr_net_real_only", "aa")
    train(forge, "one", 0.5, "halsr_net_real_plus_gan", "bb")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert compare_facts(forge, [(kind, 0, 0) for kind in model_kinds() if kind.network == "halsr_net"]) == {}
