"""The answer: does the real-plus-GAN arm score higher, for which tissue and by how much?

What the comparison report is made of, read from the finished assets; the page itself is `segmentation.report`.
"""

import platform
import shlex
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd

from assets.parts.checks import FOLDS, OWNERS, check_spec
from assets.parts.inputs import model_card, open_slices, open_studies
from assets.scores import staleness
from common.files import read_json
from common.processes import usable_cores
from common.progress import say
from common.tables import read_csv, write_csv
from engine.finished import Finished
from engine.forge import Forge, __version__
from engine.outcome import Check, Fact, Outcome, image, number
from engine.record import is_finished
from engine.tracking.links import compare_facts, run_id_of
from segmentation.model_kind import REAL_ONLY, TRAINING_SETS, ModelKind, model_kinds
from segmentation.networks.table import NETWORKS

if TYPE_CHECKING:
    from segmentation.comparison.arms import Comparison
    from segmentation.report.material import Prediction, Provenance, ReportMaterial, Setup, Training


_FIGURE_DPI = 120
_LESIONS = ("infarct", "no_reflow")
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
    result = replace(result, notes=(*_unknown_donors(forge, found), *result.notes))
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
        ("comparison real only / real + GAN",),
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
    facts = {f"chart_of_{path.stem}": image(path, folder) for path in figures} | _leading_figures(result)
    facts |= {"report": Fact("file", "report.html"), "differences": Fact.table(result.differences)}
    facts |= {"comparison": Fact("markdown", markdown)}
    facts["folds"] = Fact("text", ", ".join(sorted({str(fold) for _, fold, _ in found})))
    facts |= compare_facts(forge, found)
    return Outcome(facts, (_equal_arms(forge, found),), run_id)


def _unknown_donors(forge: Forge, found: Sequence[Place]) -> list[str]:
    """Return a sentence for each fold whose synthetic slices were made from nobody knows whom."""
    from imaging.studies.leakage import donors_note

    if not forge.settings().from_folder:
        return []
    mixed = sorted({(kind.slices, fold) for kind, fold, _ in found if TRAINING_SETS[kind.training_set].has_synthetic})
    return [note for name, fold in mixed for note in donors_note(open_slices(forge, name, fold).rows, f"fold {fold}")]


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


def _leading_figures(result: "Comparison") -> dict[str, Fact]:
    """Return how many patients were paired, and what the synthetic slices did to the lesions (rule `positive`)."""
    rows, first = result.differences, next(iter(NETWORKS))
    positive = rows[(rows["rule"] == "positive") & (rows["network"] == first)]
    found = {str(row["tissue"]): float(row["difference"]) for row in positive.to_dict("records")}
    figures = {"patients": number(int(result.pairs["case_id"].nunique()))}
    return figures | {f"{first}/{tissue}/difference": number(found[tissue]) for tissue in _LESIONS if tissue in found}


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


_LIBRARIES = ("torch", "lightning-fabric", "albumentations", "numpy", "scipy", "pandas", "h5py", "dagster", "mlflow")
_GIB = 2**30


def report_material(
    forge: Forge, comparison: "Comparison", scores: pd.DataFrame, found: Sequence[Place]
) -> "ReportMaterial":
    """Return the material of the report.

    Args:
        forge: Of the run.
        comparison: Its result.
        scores: All tables of scores, joined.
        found: (model kind, fold, seed) that went in.
    """
    from segmentation.report.material import ReportMaterial, gather_cases

    predictions, lacking = _predictions(forge, found)
    cases, notes = gather_cases(predictions, lambda fold: open_slices(forge, "real_slices", fold))
    if lacking:
        folds = ", ".join(map(str, lacking))
        notes.append(
            f"Fold {folds} was scored without keeping label maps: its patients have no picture and no segments."
        )
    return ReportMaterial(
        comparison=comparison,
        scores=scores,
        labels=open_studies(forge).label_set,
        setup=report_setup(forge),
        trainings=[_training(forge, *place) for place in found],
        cases=cases,
        provenance=_provenance(forge, sorted({fold for _, fold, _ in found})),
        notes=tuple(notes),
    )


def report_setup(forge: Forge) -> "Setup":
    """Return the configuration as far as the report speaks of it."""
    from engine.settings import FOLDS
    from segmentation.report.material import Setup, Synthesis

    settings, studies = forge.settings(), open_studies(forge)
    pix2pix, simulator = settings.pix2pix, settings.simulator
    shares = simulator.shares.model_dump()
    if simulator.paint == "lesion":  # which keeps real anatomies
        shares.pop("synthetic_anatomy")
    synthesis = Synthesis(
        steps=pix2pix.steps,
        batch=pix2pix.batch,
        l1_weight=pix2pix.l1_weight,
        adversarial=pix2pix.adversarial,
        in_context=pix2pix.context,
        strategy_shares={name: share / sum(shares.values()) for name, share in shares.items()},
        infarct_limits=simulator.infarct_limits,
        no_reflow_limits=simulator.no_reflow_limits,
        transplanted=settings.transplants,
        from_folder=settings.from_folder,
        lesions_alone=settings.paints == "lesion",
    )
    groups = pd.Series(studies.groups()).value_counts()
    return Setup(
        source=forge.source,
        profile=forge.profile,
        patients={str(group): int(count) for group, count in groups.items()},
        slices=int(studies.table()["slices"].sum()),
        folds=FOLDS,
        validation_share=settings.validation_share,
        seeds=settings.seeds,
        region=settings.region,
        balance=settings.balance,
        training_slices=settings.training_slices,
        synthetic_slices=settings.synthetic_slices,
        localiser_steps=settings.localiser.steps,
        mixing=settings.mixing,
        synthesis=synthesis,
        networks={name: settings.training(name, REAL_ONLY) for name in NETWORKS},
    )


def repeat_command(forge: Forge, fold: int) -> str:
    """Return the command that makes a fold again; the folder of the studies is the reader's own."""
    parts = ["scarforge", "run", "--source", forge.source]
    parts += ["--root", "DIR"] if forge.root else []
    parts += ["--profile", forge.profile, "--fold", str(fold)]
    parts += [part for override in forge.all_overrides for part in ("--set", override)]
    parts += [part for seed in forge.seeds for part in ("--seed", str(seed))]
    return shlex.join(parts)


def _predictions(forge: Forge, found: Sequence[Place]) -> tuple[list["Prediction"], list[int]]:
    """Return the label maps that were kept, and the folds that lack some."""
    from segmentation.report.material import Arm, Prediction
    from segmentation.scoring.held_out import read_predictions

    predictions, lacking = [], set()
    for kind, fold, seed in found:
        scored = forge.finished(kind.scores, fold, seed)
        if scored.holds("predictions.h5"):
            arm = Arm(kind.network, kind.training_set, seed)
            predictions.append(Prediction(fold, arm, read_predictions(scored.file("predictions.h5"))))
        else:
            lacking.add(fold)
    return predictions, sorted(lacking)


def _training(forge: Forge, kind: ModelKind, fold: int, seed: int) -> "Training":
    from segmentation.report.material import Training

    trained = forge.finished(kind.name, fold, seed)
    return Training(
        fold=fold,
        card=model_card(forge, kind.name, fold, seed),
        history=read_csv(trained.file("history.csv")) if trained.holds("history.csv") else pd.DataFrame(),
        run_url=_run_url(forge, trained),
        scores_url=_run_url(forge, forge.finished(kind.scores, fold, seed)),
    )


def _run_url(forge: Forge, finished: Finished) -> str:
    run_id = run_id_of(finished.folder, finished.record.asset)
    return forge.run_url(run_id) if run_id else ""


def _provenance(forge: Forge, folds: Sequence[int]) -> "Provenance":
    from segmentation.report.material import Provenance

    digests = {
        "studies (SHA-256)": open_studies(forge).digest,
        "patient split": forge.version("patient_split", None),
        "settings": forge.settings().digest,
        "scarforge": __version__,
    }
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in _LIBRARIES}
    return Provenance(digests, versions, _hardware(forge), [repeat_command(forge, fold) for fold in folds])


def _hardware(forge: Forge) -> dict[str, str]:
    import psutil

    from runtime.compute import choose_compute

    settings = forge.settings()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(usable_cores()),
        "memory": f"{psutil.virtual_memory().total / _GIB:.0f} GiB",
        "computing on": choose_compute(settings.device, settings.precision).description,
    }


def _processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "not known"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "not known"
