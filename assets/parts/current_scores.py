"""Which score tables are of today: of the very model that lies there now, and of today's data, code and settings."""

from collections.abc import Mapping

import dagster as dg

from assets import scores
from engine.forge import Forge
from engine.record import cache_key, is_finished, versions_of
from segmentation.model_kind import ModelKind

_READ_FROM_FURTHER_UP = ("real_slices", "studies", "patient_split")


def staleness(forge: Forge, kind: ModelKind, fold: int, seed: int) -> str:
    """Say why the scores of one seed are not of today, nothing where they are.

    A model may have been trained anew since it was scored, and what the scores were made of may be gone.
    """
    from runtime.model_card import read_model_json

    if lost := _lost(forge, kind, fold, seed):
        return lost
    scored = forge.finished(kind.scores, fold, seed).file("manifest.json")
    if read_model_json(scored.parent, scored.name) != forge.manifest():
        return "made with other data, code or settings"
    return _of_another_model(forge, kind, fold, seed)


def outdated(forge: Forge, kind: ModelKind, fold: int, seed: int) -> str:
    """Say why the scores of one seed are not of what lies there now, whatever their settings."""
    return _lost(forge, kind, fold, seed) or _of_another_model(forge, kind, fold, seed)


def _lost(forge: Forge, kind: ModelKind, fold: int, seed: int) -> str:
    if not is_finished(forge.folder(kind.scores, fold, seed)):
        return "not made yet"
    read = [(kind.name, fold, seed), *((asset, fold, None) for asset in _READ_FROM_FURTHER_UP)]
    missing = [place[0] for place in read if not is_finished(forge.folder(*place))]
    if missing:
        return f"{' and '.join(missing)} they were made of {'is' if len(missing) == 1 else 'are'} gone"
    return ""


def _of_another_model(forge: Forge, kind: ModelKind, fold: int, seed: int) -> str:
    from runtime.model_card import read_model_json

    opened = forge.finished(kind.scores, fold, seed)
    if found := forge.inputs(kind.scores, {forge.key(kind.scores, fold, seed): opened.record}).outdated():
        return f"made of another {found[1].partition('/')[0]} than the present one"
    manifest = read_model_json(opened.file("manifest.json").parent, "manifest.json")
    if opened.record.cache_key == scores_key(forge, kind, fold, seed, manifest):
        return ""
    return f"made of another {kind.name} than the present one, or by other rules"


def scores_key(forge: Forge, kind: ModelKind, fold: int, seed: int, manifest: Mapping[str, str]) -> str:
    """Return the cache key of the scores of one seed made of what lies there now, with the settings of `manifest`."""
    model, config = scores.score_inputs(forge, kind, fold, seed), scores.score_config(seed, manifest)
    return cache_key(scoring_version(kind), versions_of(model), config)


def scoring_version(kind: ModelKind) -> str:
    """Return the code version of a scores asset: scores formed by other rules cannot be set beside each other."""
    definition: dg.AssetsDefinition = getattr(scores, kind.scores)
    return str(definition.code_versions_by_key[definition.key])
