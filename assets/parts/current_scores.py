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
_READ_FROM_FURTHER_UP = ("real_slices", "studies", "patient_split")


def staleness(forge: Forge, name: str, fold: int, seed: int) -> str:
    """Say why the scores of one seed are not of today, nothing where they are.

    A model may have been trained anew since it was scored, and what the scores were made of may be gone.
    """
    from runtime.model_folder import read_model_json

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
    read = [(name.removesuffix("_scores"), fold, seed), *((asset, fold, None) for asset in _READ_FROM_FURTHER_UP)]
    missing = [place[0] for place in read if not is_finished(forge.folder(*place))]
    if missing:
        return f"{' and '.join(missing)} they were made of {'is' if len(missing) == 1 else 'are'} gone"
    return ""


def _of_another_model(forge: Forge, name: str, fold: int, seed: int) -> str:
    from runtime.model_folder import read_model_json

    opened = forge.finished(name, fold, seed)
    if found := forge.inputs(name, {forge.key(name, fold, seed): opened.record}).outdated():
        return f"made of another {found[1].partition('/')[0]} than the present one"
    manifest = read_model_json(opened.file("manifest.json").parent, "manifest.json")
    if opened.record.cache_key == scores_key(forge, name, fold, seed, manifest):
        return ""
    return f"made of another {name.removesuffix('_scores')} than the present one, or by other rules"


def scores_key(forge: Forge, name: str, fold: int, seed: int, manifest: Mapping[str, str]) -> str:
    """Return the cache key of the scores of one seed made of what lies there now, with the settings of `manifest`."""
    model = name.removesuffix("_scores")
    parents = {forge.key(model, fold, seed): forge.version(model, fold, seed)}
    return cache_key(scoring_version(name), parents, {"seed": seed, "manifest": dict(manifest)})


def scoring_version(name: str) -> str:
    """Return the code version of a scores asset: scores formed by other rules cannot be set beside each other."""
    definition: dg.AssetsDefinition = getattr(scores, name)
    return str(definition.code_versions_by_key[definition.key])
