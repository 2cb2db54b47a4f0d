"""What a night's own run in MLflow holds: the same figures under the same names every night."""

import math
from collections.abc import Mapping, Sequence

import dagster as dg
import pandas as pd
from filelock import FileLock

from engine.forge import Forge
from engine.run_tags import PARENT_KEY_TAG, night_name, night_tags
from segmentation.model_kind import ModelKind


def track_night(context: dg.AssetExecutionContext, forge: Forge, figures: Mapping[str, float]) -> None:
    """Write the figures of one fold into the night's run and end it; nothing for a run that a person started.

    The figures are written whether or not anything was trained, so that any two nights can be compared.
    """
    from engine.tracking.tracker import EXPERIMENT, Tracker

    tags = night_tags(context.run.tags, forge.source, forge.profile)
    if not tags:
        return
    manifest = forge.manifest()
    key = tags.pop(PARENT_KEY_TAG)
    tags |= {"source": forge.source, "profile": forge.profile, "stage": "night", "scarforge_key": key}
    # All folds share this run, and its spool disappears when the first of them ends: one fold after the other.
    with FileLock(forge.workspace.locks / "night.lock"):
        tracker = Tracker.start(
            uri=forge.tracking_uri(),
            experiment=EXPERIMENT,
            name=night_name(tags),
            tags=tags,
            params=manifest,
            spool=forge.workspace.spool,
            artifact_root=forge.workspace.artifact_root,
        )
        with tracker:
            tracker.final({name: value for name, value in figures.items() if math.isfinite(value)})


def night_figures(forge: Forge, kinds: Sequence[ModelKind], fold: int) -> dict[str, float]:
    """Return the Dice of every model, the mean over seeds, as `fold_0/<model>/dice/<rule>/<tissue>`."""
    figures: dict[str, float] = {}
    for kind in kinds:
        rows = [forge.finished(kind.scores, fold, seed).record.outcome.facts for seed in forge.settings().seeds]
        dice = [{key: fact.value for key, fact in facts.items() if key.startswith("dice/")} for facts in rows]
        means = pd.DataFrame(dice, dtype=float).mean()
        figures |= {f"fold_{fold}/{kind.name}/{key}": float(value) for key, value in means.items()}
    return figures
