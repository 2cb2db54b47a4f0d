"""What a night's own run in MLflow holds: the same figures under the same names every night."""

import math
from collections.abc import Mapping, Sequence

import dagster as dg
import pandas as pd

from engine.forge import Forge
from engine.run_tags import PARENT_KEY_TAG, RunIdentity, night_name, night_tags
from engine.tracking.run_folder import spool_folder
from segmentation.model_kind import ModelKind


def track_night(context: dg.AssetExecutionContext, forge: Forge, figures: Mapping[str, float]) -> None:
    """Write the figures of one fold into the night's run and end it; nothing for a run that a person started.

    The figures are written whether or not anything was trained, so that any two nights can be compared.
    """
    from engine.tracking.tracker import Tracker

    tags = night_tags(context.run.tags, forge.source, forge.profile)
    if not tags:
        return
    key = tags.pop(PARENT_KEY_TAG)
    named = night_name({**tags, "source": forge.source, "profile": forge.profile})
    told = forge.told(RunIdentity("night", None, None, ""), named, tags | {"stage": "night"}, forge.manifest())
    # All folds share this run; each tells of it in a folder of its own.
    folder = spool_folder(forge.workspace.spool, "/".join([key, *sorted(figures)]))
    with Tracker.of(told | {"key": key, "folder": str(folder)}) as tracker:
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
