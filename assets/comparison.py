"""The answer: does the real-plus-GAN arm score higher, for which tissue and by how much?"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd

from assets.comparison_report import report_material
from assets.parts.checks import FOLDS, OWNERS, check_spec
from assets.parts.current_scores import staleness
from assets.parts.inputs import model_card, open_studies
from common.files import read_json
from common.progress import say
from common.tables import write_csv
from engine.forge import Forge
from engine.outcome import Check, Fact, Outcome, image
from engine.record import is_finished
from engine.tracking.links import compare_facts
from segmentation.model_kind import TRAINING_SETS, ModelKind, model_kinds
from segmentation.networks.table import NETWORKS

if TYPE_CHECKING:
    from segmentation.comparison.arms import Comparison

_FIGURE_DPI = 120
Place = tuple[ModelKind, int, int]


@dg.asset(
    deps=[kind.scores for kind in model_kinds()],
    group_name="evaluation",
    kinds={"pandas", "mlflow"},
    owners=OWNERS,
    code_version="4",
    check_specs=[check_spec("arms_of_equal_size_and_steps", asset="comparison")],
    description="Real-only against real-plus-GAN, paired by patient and seed, over every fold that is done.",
)
def comparison(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
    """Compare each network's arms over all folds whose two score tables belong together."""
    found = finished_scores(forge)
    scored = [(kind.scores, fold, seed) for kind, fold, seed in found]
    return forge.materialise(context, lambda folder: _compare(context, forge, folder, found), inputs=scored)


def finished_scores(forge: Forge) -> list[Place]:
    """Return (model kind, fold, seed) of the folds in which both arms of a network are done and of today.

    A fold with tables of other data, code or settings, or of a model that was trained anew since, is left out, and it
    is said which: they must not be mixed. The other network's folds stand by themselves.
    """
    return [
        place
        for fold in map(int, FOLDS.get_partition_keys())
        for network in NETWORKS
        for place in _of_today(forge, [ModelKind(network, name) for name in TRAINING_SETS], fold)
    ]


def _of_today(forge: Forge, arms: Sequence[ModelKind], fold: int) -> list[Place]:
    places = [(kind, fold, seed) for kind in arms for seed in forge.settings().seeds]
    if not all(is_finished(forge.folder(kind.scores, fold, seed)) for kind, _, seed in places):
        return []
    stale = {place: why for place in places if (why := staleness(forge, *place))}
    for (kind, _, seed), why in stale.items():
        say(f"    fold {fold} is left out until it is rerun: {kind.scores}, seed {seed}: {why}")
    return [] if stale else places


def _compare(context: dg.AssetExecutionContext, forge: Forge, folder: Path, found: list[Place]) -> Outcome:
    from segmentation.comparison.arms import ScoredTable, compare_arms
    from segmentation.comparison.text import render_comparison
    from segmentation.report import write_report
    from segmentation.scoring.scores import read_scores

    tables = []
    for kind, fold, seed in found:
        source = forge.finished(kind.scores, fold, seed)
        manifest = read_json(source.file("manifest.json"))
        tables.append(ScoredTable(read_scores(source.file("scores.csv")), manifest))
    result = compare_arms(tables)
    write_csv(result.summary, folder / "summary.csv")
    write_csv(result.differences, folder / "differences.csv")
    write_csv(result.pairs, folder / "pairs.csv")
    labels = open_studies(forge).label_set
    markdown = render_comparison(result, labels)
    (folder / "comparison.md").write_text(markdown, encoding="utf-8")
    figures = _save_figures(result, folder)
    scores = pd.concat([table.scores for table in tables], ignore_index=True)
    write_report(report_material(forge, result, scores, found), folder / "report.html")
    run_id = forge.track_evaluation(
        context,
        folder,
        "comparison real only / real plus GAN",
        _headline(result),
        [
            folder / "report.html",
            folder / "comparison.md",
            folder / "summary.csv",
            folder / "differences.csv",
            *figures,
        ],
        stage="comparison",
        network="both",
        training_set="both",
    )
    facts = {"report": Fact("file", "report.html")}
    facts |= {"comparison": Fact("markdown", markdown), "differences": Fact.table(result.differences)}
    facts |= {path.stem: image(path, folder) for path in figures}
    facts["folds"] = Fact("text", ", ".join(sorted({str(fold) for _, fold, _ in found})))
    facts |= compare_facts(forge, found)
    return Outcome(facts, (_equal_arms(forge, found),), run_id)


def _save_figures(result: "Comparison", folder: Path) -> list[Path]:
    from segmentation.report.charts import forest_figure, pairs_figure

    figures = {folder / "differences.png": forest_figure, folder / "pairs.png": pairs_figure}
    for path, draw in figures.items():
        draw(result).savefig(path, dpi=_FIGURE_DPI)
    return list(figures)


def _headline(result: "Comparison") -> dict[str, float]:
    """Return the differences under names that line up in MLflow."""
    return {
        f"difference/{row['network']}/{row['rule']}/{row['tissue']}": float(row["difference"])
        for row in result.differences.to_dict("records")
    }


def _equal_arms(forge: Forge, found: list[Place]) -> Check:
    """Check that both arms of each network had the same number of slices and optimiser steps."""
    rows = []
    for kind, fold, seed in found:
        card = model_card(forge, kind.name, fold, seed)
        own = {"slices": card.slices, "steps": card.steps}
        rows.append({"network": kind.network, "fold": fold, "seed": seed} | own)
    table = pd.DataFrame(rows)
    spread = table.groupby(["network", "fold", "seed"])[["slices", "steps"]].nunique()
    equal = bool((spread == 1).all().all())
    figures: dict[str, Any] = {"trainings": table.to_dict(orient="records")}
    return Check("arms_of_equal_size_and_steps", equal, figures, "Both arms had equally many slices and steps.")
