"""Which score tables are of today: of the very model that lies there now, and of today's data, code and settings."""

from collections.abc import Mapping

import dagster as dg

from assets import scores
from engine.forge import Forge
from engine.record import cache_key, is_finished

SCORES = (
    "attention_res_unet_real_only_scores",
    "attention_res_unet_real_plus_gan_scores",
    "halsr_net_real_only_scores",
    "halsr_net_real_plus_gan_scores",
)


def staleness(forge: Forge, name: str, fold: int, seed: int) -> str:
    """Say why the scores of one seed are not of today, nothing where they are.

    A model may have been trained anew since it was scored, and what the scores were made of may be gone.
    """
    from runtime.model_card import read_model_json

    if lost := _lost(forge, name, fold, seed):
        return lost
    scored = forge.finished(name, fold, seed).file("manifest.json")
    if read_model_json(scored.parent, scored.name) != forge.manifest():
        return "made with other data, code or settings"
    return _of_another_model(forge, name, fold, seed)


def outdated(forge: Forge, name: str, fold: int, seed: int) -> str:
    """Say why the scores of one seed are not of what lies there now, whatever their settings."""
    return _lost(forge, name, fold, seed) or _of_another_model(forge, name, fold, seed)


def _lost(forge: Forge, name: str, fold: int, seed: int) -> str:
    if not is_finished(forge.folder(name, fold, seed)):
        return "not made yet"
    model = name.removesuffix("_scores")
    read = {asset: forge.folder(asset, fold, seed if asset == model else None) for asset in _read_by(name)}
    missing = [asset for asset, folder in read.items() if not is_finished(folder)]
    if missing:
        return f"{' and '.join(missing)} they were made of {'is' if len(missing) == 1 else 'are'} gone"
    return ""


def _of_another_model(forge: Forge, name: str, fold: int, seed: int) -> str:
    from runtime.model_card import read_model_json

    opened = forge.finished(name, fold, seed)
    manifest = read_model_json(opened.file("manifest.json").parent, "manifest.json")
    if opened.record.cache_key == scores_key(forge, name, fold, seed, manifest):
        return ""
    return f"made of another {name.removesuffix('_scores')} than the present one, of other slices or by other rules"


def scores_key(forge: Forge, name: str, fold: int, seed: int, manifest: Mapping[str, str]) -> str:
    """Return the cache key of the scores of one seed made of what lies there now, with the settings of `manifest`."""
    made_of = scores.score_inputs(forge, name, fold, seed), scores.score_config(seed, manifest)
    return cache_key(scoring_version(name), *made_of)


def scoring_version(name: str) -> str:
    """Return the code version of a scores asset: scores formed by other rules cannot be set beside each other."""
    definition = _definition(name)
    return str(definition.code_versions_by_key[definition.key])


def _read_by(name: str) -> list[str]:
    definition = _definition(name)
    return [key.to_user_string() for key in definition.asset_deps[definition.key]]


def _definition(name: str) -> dg.AssetsDefinition:
    definition: dg.AssetsDefinition = getattr(scores, name)
    return definition
