"""Champions in the workspace, and what MLflow's registry is told of them."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import InputError
from engine.champions import Candidate, ChampionBook, decide, registered_name, tell_registry
from engine.run_tags import BY_SCHEDULE, NIGHT_TAG, PARENT_KEY_TAG, STARTED_BY_TAG, night_name, night_tags
from engine.tracking.publish import Publisher, replay, waiting_runs
from engine.tracking.run_folder import RunFolder, RunNotes
from engine.tracking.store import connect, tracking_places
from engine.tracking.tracker import Tracker
from runtime.model_card import ModelCard
from segmentation.model_kind import ModelKind
from tests.mlflow_stores import told
from tests.segmentation.comparison.test_promotion import scored

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")]
CARD = ModelCard(network="halsr_net", training_set="real_only", intended_use="Research only.")
KIND = ModelKind("halsr_net", "real_only")
NAME = registered_name("phantom", "tiny", KIND, 0)


def candidate(version: str, dice: float, split: str = "abc", seeds: tuple[int, ...] = (0,)) -> Candidate:
    table = scored({"infarct": dice}, seeds=(0, 1), manifest={"patient_split": split})
    trainings = {seed: f"halsr_net_real_only/{version}/{seed}" for seed in seeds}
    return Candidate(KIND, version, table, trainings, dict.fromkeys(seeds, CARD))


def test_the_champion_stays_until_a_candidate_is_better(tmp_path: Path) -> None:
    book = ChampionBook(tmp_path)
    first = decide(book, candidate("v1", 0.5))
    assert first.is_champion
    same = decide(book, candidate("v2", 0.5))
    assert not same.is_champion
    assert same.champion == first.champion
    better = decide(book, candidate("v3", 0.6))
    assert better.is_champion
    assert better.champion.reason.startswith("better than the champion: infarct +0.100")
    worse = decide(book, candidate("v4", 0.4))
    assert worse.champion == better.champion
    assert [tissue.tissue for tissue in worse.judgement.tissues if tissue.fell] == ["infarct"]
    assert len(list(tmp_path.glob("*.csv"))) == 1


def test_another_split_promotes_nothing_until_the_book_is_moved_away(tmp_path: Path) -> None:
    book = ChampionBook(tmp_path / "fold_0")
    decide(book, candidate("v1", 0.5))
    begun = book.begun()
    other = decide(book, candidate("v2", 0.9, split="xyz"))
    assert not other.is_champion
    assert "patient_split is xyz, the champion's was abc" in other.judgement.reason
    book.folder.rename(tmp_path / "old")
    assert book.begun() != begun
    assert decide(book, candidate("v2", 0.9, split="xyz")).is_champion


def test_a_champion_that_is_scored_by_newer_rules_keeps_its_title_and_takes_the_new_scores(tmp_path: Path) -> None:
    book = ChampionBook(tmp_path)
    first = decide(book, candidate("v1", 0.5))
    again = decide(book, candidate("v1", 0.55, split="new rules"))
    assert (again.champion.since, again.champion.reason) == (first.champion.since, first.champion.reason)
    assert decide(book, candidate("v2", 0.7, split="new rules")).is_champion


def test_a_damaged_book_names_the_file_and_the_way_out(tmp_path: Path) -> None:
    book = ChampionBook(tmp_path)
    decide(book, candidate("v1", 0.5))
    (tmp_path / "halsr_net_real_only.json").write_text("{")
    with pytest.raises(InputError, match=r"halsr_net_real_only\.json: cannot be read .*move .* away"):
        decide(book, candidate("v2", 0.5))


def test_a_champion_that_another_version_wrote_or_whose_scores_are_gone_names_the_way_out(tmp_path: Path) -> None:
    book = ChampionBook(tmp_path)
    decide(book, candidate("v1", 0.5))
    (scores,) = tmp_path.glob("*.csv")
    scores.unlink()
    with pytest.raises(InputError, match=r"\.csv: cannot be read .*move .* away"):
        decide(book, candidate("v2", 0.5))
    (tmp_path / "halsr_net_real_only.json").write_text('{"model": "v1"}')
    with pytest.raises(InputError, match=r"\.json: cannot be read .*move .* away"):
        decide(book, candidate("v2", 0.5))


class Doubling(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 2 * image


@pytest.fixture
def workspace(prepared: Path) -> Any:
    """Functions that train, crown and look, all on one SQLite store, by default the right one."""
    places = tracking_places(prepared, {})

    class Workspace:
        uri, home = places.uri, prepared
        book = ChampionBook(prepared / "champions")
        client = connect(places.uri)

        def train(self, key: str, uri: str = places.uri, model: bool = True, **more: Any) -> None:
            folder = prepared / "models" / key.replace("/", "_")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model_card.json").write_text("{}")
            with Tracker.of(told(prepared, key, folder, uri, "training", **more)) as tracker:
                if model:
                    tracker.model(folder, Doubling, np.zeros((2, 1, 4, 4), np.float32), "training")

        def judge(self, found: Candidate, uri: str = places.uri) -> None:
            decision = decide(self.book, found)
            key = f"champion/{found.version}"
            tell_registry(told(prepared, key, None, uri, "champions"), [decision], "phantom", "tiny", 0)

        def aliases(self) -> dict[str, str]:
            return {
                alias: self.client.get_model_version_by_alias(NAME, alias).tags["data_version"]
                for alias in self.client.get_registered_model(NAME).aliases
            }

        def run(self, name: str) -> Any:
            (experiment,) = [e.experiment_id for e in self.client.search_experiments() if e.name == "scarforge"]
            (found,) = self.client.search_runs([experiment], f"attributes.run_name = '{name}'")
            return found

    return Workspace()


def test_each_training_is_a_candidate_and_the_champion_carries_its_reason_and_card(workspace: Any) -> None:
    for version, dice in (("v1", 0.5), ("v2", 0.6), ("v3", 0.6)):
        workspace.train(f"halsr_net_real_only/{version}/0")
        workspace.judge(candidate(version, dice))
    assert workspace.aliases() == {"candidate": "v3", "champion": "v2"}
    champion = workspace.client.get_model_version_by_alias(NAME, "champion")
    assert champion.tags["champion_reason"].startswith("better than the champion: infarct +0.100")
    assert champion.tags["training_set"] == "real_only"
    assert "Research only." in champion.description
    assert "| infarct | 0.6" in champion.description
    latest = workspace.client.get_model_version_by_alias(NAME, "candidate")
    assert latest.tags["judgement"].startswith("no evidence that it is better")
    assert "champion_reason" not in latest.tags
    assert len(workspace.client.search_model_versions(f"name = '{NAME}'")) == 3
    assert not (Path.cwd() / "mlflow.db").exists()  # MLflow looks up `models:/` sources in a store of its own choice


def test_the_registered_model_loads_under_its_alias(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    workspace.train("halsr_net_real_only/v1/0")
    workspace.judge(candidate("v1", 0.5))
    version = workspace.client.get_model_version_by_alias(NAME, "champion")
    model = mlflow.pytorch.load_model(version.source)
    assert float(model(torch.ones(3, 1, 4, 4)).mean()) == 2.0


def test_every_seed_has_an_alias_of_its_own(workspace: Any) -> None:
    for seed in (0, 1):
        workspace.train(f"halsr_net_real_only/v1/{seed}")
    workspace.judge(candidate("v1", 0.5, seeds=(0, 1)))
    assert set(workspace.aliases()) == {"candidate", "champion", "candidate-seed-1", "champion-seed-1"}


def test_what_mlflow_could_not_be_told_arrives_later_in_order(workspace: Any) -> None:
    away, places = "http://127.0.0.1:9", tracking_places(workspace.home, {})
    for version, dice in (("v1", 0.5), ("v2", 0.6)):
        workspace.train(f"halsr_net_real_only/{version}/0", away)
        workspace.judge(candidate(version, dice), away)
    assert workspace.book.champion(KIND).version == "v2"
    assert waiting_runs(places) == 4
    assert replay(places) == 4
    assert waiting_runs(places) == 0
    assert workspace.aliases() == {"candidate": "v2", "champion": "v2"}


def test_a_version_waits_for_its_training_and_is_set_aside_where_that_has_no_model(
    workspace: Any, caplog: pytest.LogCaptureFixture
) -> None:
    places, key = tracking_places(workspace.home, {}), "halsr_net_real_only/v1/0"
    training = RunFolder(workspace.home / "training")
    training.write(RunNotes(key, "training", {}, {}, {}, start_time=1, end_time=2, status="FINISHED"))
    with training.owned():  # as if its own process were telling of it just now
        workspace.judge(candidate("v1", 0.5))
        assert waiting_runs(places) == 2
    assert replay(places) == 2
    assert waiting_runs(places) == 0
    assert "has no exported model" in caplog.text


def test_a_late_event_takes_no_alias_back(workspace: Any) -> None:
    from engine.tracking.registered_models import register_version

    for version in ("v1", "v2"):
        workspace.train(f"halsr_net_real_only/{version}/0")
    experiment = workspace.client.get_experiment_by_name("scarforge").experiment_id

    def event(version: str, when: int) -> dict[str, Any]:
        content = {"name": NAME, "about": "", "training": f"halsr_net_real_only/{version}/0", "description": ""}
        return {**content, "aliases": ["champion"], "tags": {"data_version": version}, "time": when}

    for version, when in (("v2", 2000), ("v1", 1000), ("v2", 2000)):
        register_version(workspace.client, experiment, event(version, when), "scarforge_key")
    assert workspace.aliases() == {"champion": "v2"}
    assert len(workspace.client.search_model_versions(f"name = '{NAME}'")) == 2


def test_a_late_event_overwrites_no_later_judgement(workspace: Any) -> None:
    from engine.tracking.registered_models import register_version

    workspace.train("halsr_net_real_only/v1/0")
    experiment = workspace.client.get_experiment_by_name("scarforge").experiment_id
    event = {"name": NAME, "about": "", "training": "halsr_net_real_only/v1/0", "description": "", "aliases": []}
    for judgement, when in (("later", 2000), ("earlier", 1000)):
        told = {**event, "tags": {"judgement": judgement}, "time": when}
        register_version(workspace.client, experiment, told, "scarforge_key")
    (version,) = workspace.client.search_model_versions(f"name = '{NAME}'")
    assert (version.tags["judgement"], version.tags["judged_at"]) == ("later", "2000")


@pytest.mark.slow
def test_a_server_takes_the_same(mlflow_server: Any, tmp_path: Path) -> None:
    mlflow_server.start()
    (tmp_path / "model").mkdir()
    of_training = told(tmp_path, "halsr_net_real_only/v1/0", tmp_path / "model", mlflow_server.uri)
    with Tracker.of(of_training) as tracker:
        tracker.model(tmp_path / "model", Doubling, np.zeros((2, 1, 4, 4), np.float32), "training")
    decision = decide(ChampionBook(tmp_path / "book"), candidate("v1", 0.5))
    tell_registry(told(tmp_path, "champions", None, mlflow_server.uri), [decision], "phantom", "tiny", 0)
    assert connect(mlflow_server.uri).get_model_version_by_alias(NAME, "champion").tags["data_version"] == "v1"


def of_night(home: Path, night: str, key: str) -> Any:
    own = {"source": "phantom", "profile": "tiny"}
    tags = night_tags({NIGHT_TAG: night, STARTED_BY_TAG: BY_SCHEDULE}, "phantom", "tiny") | own
    parent = {"key": tags[PARENT_KEY_TAG], "name": night_name(tags), "stage": "night"}
    return told(home, key, name=f"training {key}", tags=tags, parent=parent)


def test_the_nights_runs_lie_under_one_run_that_people_can_read(workspace: Any) -> None:
    for night, key in (("2026-01-01", "a"), ("2026-01-02", "b"), ("2026-01-02", "c")):
        with Tracker.of(of_night(workspace.home, night, key)):
            time.sleep(0.01)  # so that no two begin in one millisecond
    parents = {key: workspace.run(f"training {key}").data.tags["mlflow.parentRunId"] for key in "abc"}
    first, second = workspace.run("Night 2026-01-01, phantom tiny"), workspace.run("Night 2026-01-02, phantom tiny")
    assert parents == {"a": first.info.run_id, "b": second.info.run_id, "c": second.info.run_id}
    assert (first.info.status, second.info.status) == ("KILLED", "RUNNING")  # the first night never came to its end


def test_a_night_that_is_told_of_late_does_not_end_the_one_that_is_going(workspace: Any) -> None:
    places = tracking_places(workspace.home, {})
    for night, began in (("2026-01-02", 2000), ("2026-01-01", 1000)):
        values, run = of_night(workspace.home, night, night), RunFolder(workspace.home / night)
        run.write(RunNotes(night, "training", values["tags"], {}, values["parent"], start_time=began))
        Publisher(run, places).whole()
    assert workspace.run("Night 2026-01-02, phantom tiny").info.status == "RUNNING"
