"""A methods paragraph for a paper, written from the configuration and the tables of this very run."""

from collections.abc import Mapping
from types import MappingProxyType

from common.pages.words import count, listed, upper_first, words
from imaging.labels import PATIENT_GROUPS
from segmentation.comparison.statistics import CONFIDENCE, MINIMUM_PAIRS, one_training_set, sources_of_variation
from segmentation.model_kind import ARMS
from segmentation.report.material import ReportMaterial, Setup, Synthesis
from segmentation.training.config import TrainConfig

_LOSSES: Mapping[str, str] = MappingProxyType(
    {
        "cross_entropy": "cross-entropy",
        "dice": "soft Dice loss",
        "cross_entropy_dice": "cross-entropy plus soft Dice loss",
        "bce_dice": "binary cross-entropy plus soft Dice loss",
        "focal_tversky": "focal Tversky loss",
        "generalised_dice": "generalised Dice loss",
        "generalised_dice_boundary": "generalised Dice plus boundary loss",
    }
)
_OPTIMISERS: Mapping[str, str] = MappingProxyType(
    {"adamw": "AdamW", "muon": "Muon for the convolutions and AdamW for the rest"}
)
_PERCENT = "\N{NO-BREAK SPACE}%"


def methods_paragraphs(material: ReportMaterial) -> tuple[str, ...]:
    """Return data, training sets, networks, and evaluation, a paragraph each."""
    return _data(material), _training_sets(material), _networks(material), _evaluation(material)


def _data(material: ReportMaterial) -> str:
    setup, folds = material.setup, material.comparison.folds
    region = setup.region
    low, high = region.percentiles
    what = "simulated patients of a built-in phantom" if setup.simulated else f"patients of the source {setup.source}"
    groups = listed([f"{setup.patients.get(group, 0)} {words(group)}" for group in PATIENT_GROUPS])
    done = f"; results are given for {_of_folds(folds, setup.folds)}"
    return (
        f"We used {setup.total_patients} {what} ({groups}; {setup.slices:,} short-axis slices). Slices were resampled "
        f"to 1 × 1 mm in plane. Patients were split into {setup.folds} folds, stratified by group, and "
        f"{setup.validation_share:.0%} of each fold's training patients were set aside for validation{done} "
        f"({count(material.test_patients, 'test patient')}). A localiser ({setup.localiser_steps:,} optimiser steps) "
        f"found the left ventricle; regions of {region.size_px} × {region.size_px} pixels were cut around the "
        f"reference box in training patients (moved by up to {region.jitter_mm:g} mm) and around the predicted box in "
        f"all others. Intensities between percentiles {low:g} and {high:g} of a study's regions were scaled to [0, 1]."
    ).replace("%", _PERCENT)


def _training_sets(material: ReportMaterial) -> str:
    setup = material.setup
    return (
        f"{_mixed(setup)} Augmented slices were drawn so that {setup.balance.infarct_share:.0%} held an infarct and "
        f"{setup.balance.no_reflow_share:.0%} no-reflow. {_synthesis(setup.synthesis)}, and the slices were varied by "
        f"the recipe of the augmented ones. {_learners(setup.synthesis)} used training patients of the fold only."
    ).replace("%", _PERCENT)


def _mixed(setup: Setup) -> str:
    mixing, total = setup.mixing, setup.training_slices
    real, synthetic = setup.real_beside_synthetic, setup.synthetic_slices
    if mixing.protocol == "add":
        said = (
            f"Each network was trained on {total:,} augmented slices of training patients, alone or with "
            f"{synthetic:,} synthetic ones beside them."
        )
    else:
        said = (
            f"Each network was trained on two sets of {total:,} slices: augmented slices of training patients only, or "
            f"{real:,} of these and {synthetic:,} synthetic ones."
        )
    if mixing.protocol == "synthetic_first":
        said += f" The last {mixing.real_last_share:.0%} of the steps drew no synthetic ones."
    if mixing.synthetic_weight != 1:
        said += f" A synthetic slice weighed {mixing.synthetic_weight:g} in the loss, a real one 1."
    return said


def _learners(made: Synthesis) -> str:
    return "Localiser and segmenters" if made.from_folder else "Localiser, generator, simulated lesions and segmenters"


def _synthesis(made: Synthesis) -> str:
    if made.from_folder:
        return "Synthetic slices and their label maps were made by another program and read from a folder"
    if made.transplanted:
        return (
            "Synthetic slices are healthy slices of training patients into whose wall another training patient's "
            "lesion was carried, pixel by pixel at the same depth of the wall"
        )
    strategies = listed([f"{words(name)} ({share:.0%})" for name, share in made.strategy_shares.items()])
    drew = "the ventricle into real slices" if made.in_context else "whole slices"
    drew = "lesions into the walls of real slices" if made.lesions_alone else drew
    limits = (
        f"{_range(made.infarct_limits)} of the myocardium and no-reflow {_range(made.no_reflow_limits)} of the lesion"
    )
    return (
        f"Label maps of synthetic slices were simulated by {strategies}, with infarct accepted at {limits}. A Pix2Pix "
        f"generator ({made.steps:,} steps of {count(made.batch, 'slice')}, {words(made.adversarial)} adversarial loss, "
        f"L1 weight {made.l1_weight:g}) drew {drew}"
    )


def _networks(material: ReportMaterial) -> str:
    seeds = sorted({training.arm.seed for training in material.trainings}) or list(material.setup.seeds)
    sentences = [_network(material, name, config) for name, config in material.setup.networks.items()]
    same = "Both arms had the same number of " + (
        "steps" if material.setup.mixing.protocol == "add" else "slices and steps"
    )
    precision = sorted({training.card.precision for training in material.trainings})
    computed = f" Training ran in {listed(precision)}." if precision else ""
    return (
        f"{' '.join(sentences)} {same} and the same "
        f"{'seed' if len(seeds) == 1 else 'seeds'} ({listed([str(seed) for seed in seeds])}); the weights with the "
        f"best mean Dice on the validation patients were kept.{computed}"
    )


def _network(material: ReportMaterial, name: str, config: TrainConfig) -> str:
    sizes = {t.card.parameters for t in material.trainings if t.arm.network == name}
    parameters = f", {listed([f'{size / 1e6:.2f}' for size in sorted(sizes)])} million parameters" if sizes else ""
    widths = ", ".join(map(str, config.network.widths))
    loss = _LOSSES.get(config.loss, config.loss.replace("_", " "))
    weighted = "" if config.class_weights == "none" else ", classes weighted"
    start = "" if config.start_from is None else f", starting from the weights of another model ({config.start_from}),"
    window = f", random windows of {config.crop_px} × {config.crop_px} pixels" if config.crop_px else ""
    flips = "; predictions were averaged over mirrored copies" if config.flips_at_test_time else ""
    return (
        f"{words(name)} (widths {widths}, bottleneck {config.network.bottleneck}{parameters}) was trained{start} for "
        f"{config.steps:,} steps of {count(config.batch, 'slice')} with {loss}{weighted}{window}, "
        f"{_OPTIMISERS[config.optimiser]} (learning rate {config.learning_rate:g}, {config.schedule} schedule, "
        f"weight decay {config.weight_decay:g}) and an exponential moving average of the weights (decay "
        f"{config.average_decay:g}){flips}."
    )


def _evaluation(material: ReportMaterial) -> str:
    found = material.comparison.differences
    pairs = found[found["rule"] == "positive"].groupby("tissue", sort=False)["pairs"].min()
    counted = listed([f"{pairs[tissue]} for {words(tissue)}" for tissue in pairs.index])
    paired = f" ({counted})" if len(pairs) else ""
    folds, seeds = (int(found[name].min()) if len(found) else 1 for name in ("folds", "seeds"))
    alone = one_training_set(folds)
    alone += "; one seed, so that they leave out the variation between trainings" if seeds == 1 else ""
    return (
        "Predictions were put back into each study's own grid and scored there. The main score is the Dice of a "
        "patient in 3-D, averaged over the patients whose reference holds the tissue (rule “positive”). Beside it are "
        "given one Dice over all voxels (“pooled”), EMIDEC's rule, under which a tissue absent from both reference and "
        "prediction scores 1 (“official”), and the mean over slices that hold the tissue on either side (“per slice”). "
        "Three yardsticks were scored alike: no tissue at all, the mean training mask, and another patient's mask. "
        f"{upper_first(words(ARMS[1]))} was compared with {words(ARMS[0])}, paired by patient and seed{paired}, with "
        f"{100 * CONFIDENCE:g}{_PERCENT} intervals from the variance of {sources_of_variation(folds, seeds)} "
        f"(pseudo-values of the score{alone}) and Wilcoxon's signed-rank test; the larger of the two p values was "
        "Holm-corrected over all networks and tissues. A difference was called better or worse where the interval left "
        f"out zero and the corrected p was below {1 - CONFIDENCE:.2g}, and "
        f"not judged with fewer than {MINIMUM_PAIRS} pairs."
    )


def _of_folds(folds: tuple[int, ...], total: int) -> str:
    if len(folds) == total:
        return f"all {total} folds"
    return f"{'fold' if len(folds) == 1 else 'folds'} {listed([str(fold) for fold in folds])} alone"


def _range(shares: tuple[float, float]) -> str:
    low, high = shares
    return f"{100 * low:g}–{100 * high:g}%"
