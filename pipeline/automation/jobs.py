"""One job a profile, and one for sources without lesions."""

import os
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,  # not exported, yet what define_asset_job returns
)

from engine.run_config import forge_fields
from imaging.sources.table import SOURCES
from segmentation.model_kind import REAL_ONLY, ModelKind
from segmentation.networks.table import NETWORKS

REAL_ONLY_KINDS = tuple(ModelKind(network, REAL_ONLY) for network in NETWORKS)
REAL_ONLY_HALF = (
    "studies",
    "patient_split",
    "lv_localiser",
    "real_slices",
    "augmented_slices",
    "training_set_real_only",
    *(kind.name for kind in REAL_ONLY_KINDS),
    *(kind.scores for kind in REAL_ONLY_KINDS),
    "champion",
)
CINE_PROFILE = os.environ.get("SCARFORGE_PROFILE", "quick")


def fold_job(profile: str, description: str, fields: dict[str, str]) -> UnresolvedAssetJobDefinition:
    """Return the job that runs the whole graph for one fold with one profile."""
    return dg.define_asset_job(
        name=f"{profile}_fold",
        selection="*",
        description=description,
        config=_forge_config({"profile": profile, **fields}),
    )


def _forge_config(fields: dict[str, str]) -> dict[str, Any]:
    return {"resources": {"forge": {"config": {**forge_fields(os.environ), **fields}}}}


_WITHOUT_LESIONS = [name for name, form in SOURCES.items() if form.label_set and not form.label_set.has_lesions]
_PHANTOM = {"source": "phantom", "root": ""}
demo_fold = fold_job("demo", "The whole graph on the built-in phantom, for two CPU cores.", _PHANTOM)
tiny_fold = fold_job("tiny", "The whole graph on a handful of phantom patients, to try the wiring.", _PHANTOM)
quick_fold = fold_job("quick", "Real data (SCARFORGE_SOURCE, SCARFORGE_ROOT) on a CPU, an hour or two.", {})
paper_fold = fold_job("paper", "Real data with full counts, for a GPU.", {})
cine = dg.define_asset_job(
    name="cine",
    selection=list(REAL_ONLY_HALF),
    description=f"The real-only half, for sources without lesions ({', '.join(_WITHOUT_LESIONS)} and others).",
    config=_forge_config({"profile": CINE_PROFILE}),
)
JOBS = {"demo": demo_fold, "tiny": tiny_fold, "quick": quick_fold, "paper": paper_fold}


def job_for(profile: str, has_lesions: bool) -> UnresolvedAssetJobDefinition:
    """Return the job that fits a source: the whole graph, or its real-only half where no study holds an infarct."""
    return JOBS[profile] if has_lesions else cine
