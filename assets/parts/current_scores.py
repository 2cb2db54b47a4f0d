"""Which score tables are of today: of the very model that lies there now, and of today's data, code and settings."""

from collections.abc import Mapping

import dagster as dg

from assets import scores
from engine.forge import Forge
from engine.record import cache_key, is_finished
from segmentation.model_kind import ModelKind


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
    read = {asset: forge.folder(asset, fold, seed if asset == kind.name else None) for asset in _read_by(kind)}
    missing = [asset for asset, folder in read.items() if not is_finished(folder)]
    if missing:
        return f"{' and '.join(missing)} they were made of {'is' if len(missing) == 1 else 'are'} gone"
    return ""


def _of_another_model(forge: Forge, kind: ModelKind, fold: int, seed: int) -> str:
    from runtime.model_card import read_model_json

    opened = forge.finished(kind.scores, fold, seed)
    manifest = read_model_json(opened.file("manifest.json").parent, "manifest.json")
    if opened.record.cache_key == scores_key(forge, kind, fold, seed, manifest):
        return ""
    return f"made of another {kind.name} than the present one, of other slices or by other rules"


def scores_key(forge: Forge, kind: ModelKind, fold: int, seed: int, manifest: Mapping[str, str]) -> str:
    """Return the cache key of the scores of one seed made of what lies there now, with the settings of `manifest`."""
    made_of = scores.score_inputs(forge, kind, fold, seed), scores.score_config(seed, manifest)
    return cache_key(scoring_version(kind), *made_of)


def scoring_version(kind: ModelKind) -> str:
    """Return the code version of a scores asset: scores formed by other rules cannot be set beside each other."""
    definition = _definition(kind)
    return str(definition.code_versions_by_key[definition.key])


def _read_by(kind: ModelKind) -> list[str]:
    definition = _definition(kind)
    return [key.to_user_string() for key in definition.asset_deps[definition.key]]


def _definition(kind: ModelKind) -> dg.AssetsDefinition:
    definition: dg.AssetsDefinition = getattr(scores, kind.scores)
    return definition
