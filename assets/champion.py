"""Which model of each kind is trusted: the champion, and whether the candidate takes its place."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from assets.parts.checks import FOLDS, OWNERS, check_spec
from assets.parts.inputs import model_card
from assets.parts.pictures import judgement_chart
from assets.scores import scoring_version, staleness
from common.errors import InputError
from common.tables import write_csv
from engine.champions import Candidate, ChampionBook, Decision, decide, tell_registry
from engine.finished import Finished
from engine.forge import Forge, require_fold
from engine.outcome import Check, Fact, Outcome, number, text
from engine.run_tags import RunIdentity, run_name
from engine.tracking.tracker import night_figures, track_night
from segmentation.model_kind import ModelKind, model_kinds

# A night may be late; a week of missed nights is a fault.
FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=8), warn_window=timedelta(hours=36))


@dg.asset(
    deps=[kind.scores for kind in model_kinds()],
    partitions_def=FOLDS,
    group_name="evaluation",
    kinds={"pandas", "mlflow"},
    owners=OWNERS,
    code_version="2",
    freshness_policy=FRESHNESS,
    check_specs=[check_spec("no_regression", asset="champion")],
    description="Judges each model against the champion of its kind, on the same test patients and seeds.",
)
def champion(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
    """Promote what is better, keep what was not beaten, and tell MLflow's model registry."""
    fold = require_fold(context)
    book = ChampionBook(forge.workspace.root / "champions" / f"fold_{fold}")
    if forge.remote is not None:
        forge.remote.pull_state(book.folder)
    kinds = scored_kinds(forge, fold)
    if not kinds:
        raise InputError(f"no model of fold {fold} has scores of today's data and settings; materialise a scores asset")
    scored = [(kind.scores, fold, seed) for kind in kinds for seed in forge.settings().seeds]
    others = {f"{kind.scores}/code": scoring_version(kind) for kind in kinds}
    others["champions"] = book.begun()
    result = forge.materialise(
        context, lambda folder: _judge(context, forge, folder, book, kinds), extra_parents=others, inputs=scored
    )
    if forge.remote is not None:
        forge.remote.push_state(book.folder)
    track_night(context, forge, night_figures(forge, kinds, fold))
    return result


def scored_kinds(forge: Forge, fold: int) -> list[ModelKind]:
    """Return the models whose scores, of every seed, were made of these very models with today's data and settings."""
    seeds = forge.settings().seeds
    return [kind for kind in model_kinds() if not any(staleness(forge, kind, fold, seed) for seed in seeds)]


def _judge(
    context: dg.AssetExecutionContext, forge: Forge, folder: Path, book: ChampionBook, kinds: list[ModelKind]
) -> Outcome:
    fold = require_fold(context)
    decisions = [decide(book, read_candidate(forge, kind, fold)) for kind in kinds]
    tissues = tissue_table(decisions)
    write_csv(tissues, folder / "judgements.csv")
    tracking = forge.tracking(
        context,
        run_name(fold, None, "champions"),
        folder,
        {},
        seed=0,
        stage="promotion",
        network="all",
        training_set="all",
    )
    run_id = tell_registry(tracking, decisions, forge.source, forge.profile, fold)
    facts = {
        "models_judged": number(len(decisions)),
        "new_champions": number(sum(decision.is_champion for decision in decisions)),
        "tissues_that_fell": number(int(tissues["fell"].sum()) if len(tissues) else 0),
        "champions": Fact.table(decision_table(decisions)),
        "kept_in": text(str(book.folder)),
    }
    facts["judgements"] = judgement_chart(candidate_dice(decisions), tissues, folder)
    if len(tissues):
        facts["tissues"] = Fact.table(tissues)
    return Outcome(facts, (no_regression(tissues),), run_id)


def read_candidate(forge: Forge, kind: ModelKind, fold: int) -> Candidate:
    """Read the present model of a kind: what it is, how it scored, and which trainings made it."""
    from segmentation.comparison.arms import ScoredTable
    from segmentation.scoring.scores import RULES_VERSION, read_scores

    seeds = forge.settings().seeds
    trained = {seed: forge.finished(kind.name, fold, seed) for seed in seeds}
    cards = {seed: model_card(forge, kind.name, fold, seed) for seed in seeds}
    tables = [read_scores(forge.finished(kind.scores, fold, seed).file("scores.csv")) for seed in seeds]
    table = pd.concat(tables, ignore_index=True)
    manifest = {name: forge.version(name, None) for name in ("studies", "patient_split")}
    manifest |= {"fold": str(fold), "scoring": RULES_VERSION}
    return Candidate(
        kind=kind,
        version="+".join(model.record.data_version for model in trained.values()),
        table=ScoredTable(table[table["training_set"] != ""].reset_index(drop=True), manifest),
        trainings={seed: _training_key(kind, fold, seed, model) for seed, model in trained.items()},
        cards=cards,
    )


def _training_key(kind: ModelKind, fold: int, seed: int, model: Finished) -> str:
    return RunIdentity(kind.name, fold, seed, model.record.attempt or model.record.cache_key).key


def decision_table(decisions: list[Decision]) -> pd.DataFrame:
    """Return one row a kind: whether the candidate is the champion, since when there is one, and why."""
    rows = [
        {
            "model": decision.candidate.kind.name,
            "candidate_is_champion": decision.is_champion,
            "candidate": decision.judgement.reason,
            "champion_since": decision.champion.since,
            "champion_because": decision.champion.reason,
        }
        for decision in decisions
    ]
    return pd.DataFrame(rows)


def tissue_table(decisions: list[Decision]) -> pd.DataFrame:
    """Return one row a kind and tissue that was compared, with both Dice, the intervals and the verdict."""
    rows: list[dict[str, Any]] = [
        {
            "model": decision.candidate.kind.name,
            "tissue": tissue.tissue,
            "candidate": tissue.candidate,
            "champion": tissue.champion.value,
            "champion_low": tissue.champion.low,
            "champion_high": tissue.champion.high,
            "difference": tissue.difference.value,
            "low": tissue.difference.low,
            "high": tissue.difference.high,
            "pairs": tissue.pairs,
            "verdict": tissue.verdict,
            "fell": tissue.fell,
        }
        for decision in decisions
        for tissue in decision.judgement.tissues
    ]
    return pd.DataFrame(rows)


def candidate_dice(decisions: list[Decision]) -> pd.DataFrame:
    """Return the mean Dice (rule `positive`) of each candidate by tissue: `model`, `tissue`, `candidate`."""
    tables = []
    for decision in decisions:
        scores = decision.candidate.table.scores
        dice = scores[(scores["rule"] == "positive") & (scores["metric"] == "dice")]
        means = dice.groupby("tissue", sort=False)["value"].mean().rename("candidate").reset_index()
        tables.append(means.assign(model=decision.candidate.kind.name))
    return pd.concat(tables, ignore_index=True)


def no_regression(tissues: pd.DataFrame) -> Check:
    """Check that no candidate's Dice lies below the lower end of its champion's interval."""
    shown = ["model", "tissue", "candidate", "champion", "champion_low", "champion_high"]
    fell = Fact.table(tissues.loc[tissues["fell"], shown]).value if len(tissues) else []
    figures = {"compared": len(tissues), "fell": fell}
    description = "No candidate's Dice (positive) lies below the lower end of the champion's interval."
    return Check("no_regression", not fell, figures, description, warning=True)
