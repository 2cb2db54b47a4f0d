"""What the comparison report is made of, read from the finished assets; the page itself is `segmentation.report`."""

import platform
import shlex
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from assets.parts.inputs import model_card, open_slices, open_studies
from common.tables import read_csv
from common.workers import usable_cores
from engine.finished import Finished
from engine.forge import Forge, __version__
from engine.tracking.links import run_id_of
from segmentation.model_kind import REAL_ONLY, ModelKind
from segmentation.networks.table import NETWORKS

if TYPE_CHECKING:
    from segmentation.comparison.arms import Comparison
    from segmentation.report.material import Prediction, Provenance, ReportMaterial, Setup, Training

Place = tuple[ModelKind, int, int]

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
