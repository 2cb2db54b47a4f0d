"""Champions in the workspace, and what MLflow's registry is told of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import InputError
from engine.champions import Candidate, ChampionBook, decide, registered_name, tell_registry
from engine.run_tags import BY_SCHEDULE, NIGHT_TAG, STARTED_BY_TAG, night_tags
from engine.tracking.store import connect
from engine.tracking.tracker import Tracker, pending_events, replay, tracking_places
from runtime.model_card import ModelCard
from tests.segmentation.comparison.test_promotion import scored

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")]
CARD = ModelCard(network="halsr_net", training_set="real_only", intended_use="Research only.")
NAME = registered_name("phantom", "tiny", "halsr_net_real_only", 0)


def candidate(version: str, dice: float, split: str = "abc", seeds: tuple[int, ...] = (0,)) -> Candidate:
    table = scored({"infarct": dice}, seeds=(0, 1), manifest={"patient_split": split})
    trainings = {seed: f"halsr_net_real_only/{version}/{seed}" for seed in seeds}
    return Candidate("halsr_net", "real_only", version, table, trainings, dict.fromkeys(seeds, CARD))


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
        uri, spool = places.uri, places.spool
        book = ChampionBook(prepared / "champions")
        client = connect(places.uri)

        def tracking(self, name: str, uri: str, **tags: str) -> dict[str, Any]:
            return {
                "uri": uri,
                "experiment": "scarforge",
                "name": name,
                "tags": tags,
                "params": {},
                "spool": str(places.spool),
                "artifact_root": str(places.artifact_root),
            }

        def train(self, key: str, uri: str = places.uri, model: bool = True, **tags: str) -> None:
            folder = prepared / "model"
            folder.mkdir(exist_ok=True)
            (folder / "model_card.json").write_text("{}")
            with Tracker.of(self.tracking("training", uri, scarforge_key=key, **tags)) as tracker:
                if model:
                    tracker.model(folder, Doubling, np.zeros((2, 1, 4, 4), np.float32), "training")

        def judge(self, found: Candidate, uri: str = places.uri) -> None:
            decision = decide(self.book, found)
            tracking = self.tracking("champions", uri, scarforge_key=f"champion/{found.version}")
            tell_registry(tracking, [decision], "phantom", "tiny", 0)

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


def test_what_mlflow_could_not_be_told_arrives_later_in_order(workspace: Any, caplog: Any) -> None:
    away = "http://127.0.0.1:9"
    for version, dice in (("v1", 0.5), ("v2", 0.6)):
        workspace.train(f"halsr_net_real_only/{version}/0", away)
        workspace.judge(candidate(version, dice), away)
    assert workspace.book.champion("halsr_net_real_only").version == "v2"
    assert pending_events(workspace.spool)
    replay(workspace.spool, workspace.uri)
    assert pending_events(workspace.spool) == 0
    assert workspace.aliases() == {"candidate": "v2", "champion": "v2"}


def test_a_version_waits_for_its_training_and_is_set_aside_where_there_is_none(workspace: Any) -> None:
    from engine.tracking.spool import RunSpool

    waiting = RunSpool.of_key(workspace.spool, "halsr_net_real_only/v1/0")
    header = workspace.tracking("training", "", scarforge_key="halsr_net_real_only/v1/0")
    waiting.open({**header, "start_time": 1}, {"kind": "open"})
    with waiting.sending():  # as if another process were sending it just now
        workspace.judge(candidate("v1", 0.5))
        assert pending_events(workspace.spool) >= 2
    waiting.append({"kind": "end", "status": "FINISHED"})
    waiting.release()
    replay(workspace.spool, workspace.uri)  # the training arrives, without a model
    replay(workspace.spool, workspace.uri)
    assert pending_events(workspace.spool) == 0
    (rejected,) = (workspace.spool / "rejected").glob("*.jsonl")
    assert "has no exported model" in rejected.read_text()


def test_a_late_event_takes_no_alias_back(workspace: Any) -> None:
    from engine.tracking.registered_models import register_version

    for version in ("v1", "v2"):
        workspace.train(f"halsr_net_real_only/{version}/0")
    experiment = workspace.client.get_experiment_by_name("scarforge").experiment_id

    def event(version: str, time: int) -> dict[str, Any]:
        content = {"name": NAME, "about": "", "training": f"halsr_net_real_only/{version}/0", "description": ""}
        return {**content, "aliases": ["champion"], "tags": {"data_version": version}, "time": time}

    for version, time in (("v2", 2000), ("v1", 1000), ("v2", 2000)):
        register_version(workspace.client, experiment, event(version, time), "scarforge_key")
    assert workspace.aliases() == {"champion": "v2"}
    assert len(workspace.client.search_model_versions(f"name = '{NAME}'")) == 2


def test_a_late_event_overwrites_no_later_judgement(workspace: Any) -> None:
    from engine.tracking.registered_models import register_version

    workspace.train("halsr_net_real_only/v1/0")
    experiment = workspace.client.get_experiment_by_name("scarforge").experiment_id
    event = {"name": NAME, "about": "", "training": "halsr_net_real_only/v1/0", "description": "", "aliases": []}
    for judgement, time in (("later", 2000), ("earlier", 1000)):
        told = {**event, "tags": {"judgement": judgement}, "time": time}
        register_version(workspace.client, experiment, told, "scarforge_key")
    (version,) = workspace.client.search_model_versions(f"name = '{NAME}'")
    assert (version.tags["judgement"], version.tags["judged_at"]) == ("later", "2000")


def test_a_training_that_was_begun_again_after_its_judgement_blocks_nothing(workspace: Any) -> None:
    away = "http://127.0.0.1:9"
    workspace.train("halsr_net_real_only/v1/0", away)
    workspace.judge(candidate("v1", 0.5), away)
    workspace.train("halsr_net_real_only/v1/0", away)
    replay(workspace.spool, workspace.uri)
    assert pending_events(workspace.spool) == 0
    assert workspace.aliases() == {"candidate": "v1", "champion": "v1"}


@pytest.mark.slow
def test_a_server_takes_the_same_events(mlflow_server: Any, tmp_path: Path) -> None:
    mlflow_server.start()
    tracking = {"uri": mlflow_server.uri, "experiment": "scarforge", "params": {}, "spool": str(tmp_path / "spool")}
    tracking |= {"artifact_root": str(tmp_path / "artifacts")}
    (tmp_path / "model").mkdir()
    key = {"scarforge_key": "halsr_net_real_only/v1/0"}
    with Tracker.of({**tracking, "name": "training", "tags": key}) as tracker:
        tracker.model(tmp_path / "model", Doubling, np.zeros((2, 1, 4, 4), np.float32), "training")
    decision = decide(ChampionBook(tmp_path / "book"), candidate("v1", 0.5))
    tell_registry({**tracking, "name": "champions", "tags": {}}, [decision], "phantom", "tiny", 0)
    replay(tmp_path / "spool", mlflow_server.uri)
    assert connect(mlflow_server.uri).get_model_version_by_alias(NAME, "champion").tags["data_version"] == "v1"


def test_the_nights_runs_lie_under_one_run_that_people_can_read(workspace: Any) -> None:
    for night, key in (("2026-01-01", "a"), ("2026-01-02", "b"), ("2026-01-02", "c")):
        tags = night_tags({NIGHT_TAG: night, STARTED_BY_TAG: BY_SCHEDULE}, "phantom", "tiny")
        found = workspace.tracking(f"training {key}", workspace.uri, scarforge_key=key, **tags)
        with Tracker.of({**found, "tags": {**found["tags"], "source": "phantom", "profile": "tiny"}}):
            pass
    parents = {key: workspace.run(f"training {key}").data.tags["mlflow.parentRunId"] for key in "abc"}
    first, second = workspace.run("Night 2026-01-01, phantom tiny"), workspace.run("Night 2026-01-02, phantom tiny")
    assert parents == {"a": first.info.run_id, "b": second.info.run_id, "c": second.info.run_id}
    assert (first.info.status, second.info.status) == ("KILLED", "RUNNING")  # the first night never came to its end


def test_a_night_that_waited_in_the_spool_does_not_end_the_one_that_is_going(workspace: Any) -> None:
    from engine.tracking.delivery import parent_tags

    experiment = workspace.client.get_experiment_by_name("scarforge").experiment_id
    for night, began in (("2026-01-02", 2000), ("2026-01-01", 1000)):
        tags = night_tags({NIGHT_TAG: night, STARTED_BY_TAG: BY_SCHEDULE}, "phantom", "tiny")
        tags |= {"source": "phantom", "profile": "tiny"}
        parent_tags(workspace.client, experiment, tags, workspace.spool, "scarforge_key", began)
    assert workspace.run("Night 2026-01-02, phantom tiny").info.status == "RUNNING"
