"""Label map to image: Pix2Pix, lesion masks, and the synthetic slices drawn from them.

Or slices with transplanted lesions, or a folder's that another program has filled: both come with their label maps, as
`lesion_masks`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pandas as pd

from assets.parts.checks import FOLDS, OWNERS, check_spec, class_balance, leak_check
from assets.parts.inputs import VARIED_SLICES, open_slices, open_split, slices_file, split_file
from assets.parts.pictures import store_preview
from assets.parts.training_run import as_outcome, train_in_own_process
from assets.quality_instruments import JUDGE
from assets.slices import code_version_of, store_facts
from common.errors import InputError
from common.tables import write_csv
from engine.forge import Forge, Place, require_fold
from engine.outcome import Check, Fact, Outcome, image, number, text
from imaging.slices.store import SliceStore

if TYPE_CHECKING:
    from engine.settings import Settings
    from gan.generation.refusal import Filter
    from gan.simulator import SimulatorConfig
    from imaging.studies.split import FoldSplit
    from runtime.compute import Compute

_OF_REFUSALS = {"refuse_quantile", "refuse_draws"}
_OF_PAINT = {"softness_px", "grain_share"}


@dg.asset(
    deps=["augmented_slices"],
    partitions_def=FOLDS,
    group_name="synthesis",
    kinds={"pytorch"},
    owners=OWNERS,
    code_version="3",
    pool="gpu",
    check_specs=[check_spec("finite_losses", asset="pix2pix", blocking=True)],
    description="Pix2Pix: draws a slice for a label map; its checkpoint is chosen on validation patients.",
)
def pix2pix(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
    """Train the generator on the fold's augmented slices."""
    fold, settings = require_fold(context), forge.settings()

    def build(folder: Path) -> Outcome:
        inputs = {
            "training_set": slices_file(forge, "augmented_slices", fold),
            "real_slices": slices_file(forge, "real_slices", fold),
            "patient_split": split_file(forge),
        }
        if settings.pix2pix.perceptual_weight and settings.quality.vgg16_weights:
            inputs["vgg16_weights"] = Path(settings.quality.vgg16_weights)
        tags = {"stage": "synthesis", "network": "pix2pix", "training_set": "augmented"}
        result = train_in_own_process(
            context, forge, folder, "pix2pix", inputs, settings.pix2pix, settings.split_seed, tags
        )
        return as_outcome(folder, result)

    if not settings.generates:
        method = settings.synthesis.method
        return forge.materialise(context, lambda _: _not_trained(method), {"method": method})
    return forge.materialise(context, build, settings.pix2pix, _weights_read(settings))


def _weights_read(settings: "Settings") -> dict[str, str]:
    """Return the content of VGG16's weights where the loss reads them."""
    weights = settings.quality.weights if settings.pix2pix.perceptual_weight else {}
    return {"vgg16_weights": weights["vgg16_weights"]} if "vgg16_weights" in weights else {}


def _not_trained(method: str) -> Outcome:
    nothing = Check("finite_losses", True, {"rounds": 0}, "Nothing was trained.")
    return Outcome({"used": text(f"not used: synthesis.method is {method}, which needs no generator")}, (nothing,))


@dg.asset(
    deps=["real_slices"],
    partitions_def=FOLDS,
    group_name="synthesis",
    kinds={"python", "hdf5"},
    owners=OWNERS,
    code_version="2",
    check_specs=[
        check_spec("no_patient_leak", asset="lesion_masks", blocking=True),
        check_spec("class_balance", asset="lesion_masks"),
    ],
    description="Label maps: grown lesions, lesions of other patients, synthetic anatomy; or with their slices.",
)
def lesion_masks(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
    """Simulate masks, each with the background slice it will be drawn into."""
    settings = forge.settings()
    config = {
        "simulator": settings.simulator.model_dump(mode="json"),
        "balance": settings.balance.model_dump(mode="json"),
        "masks": settings.synthetic_slices,
    }
    if settings.transplants:
        config |= {"transplant": settings.transplant.model_dump(mode="json")}
    if settings.from_folder:
        config |= folder_key(settings, require_fold(context))
    return forge.materialise(context, lambda folder: _simulate(context, forge, folder), config)


def folder_key(settings: "Settings", fold: int) -> dict[str, Any]:
    """Return what decides the slices that are read from a folder: its content, how it is read, and the region."""
    from gan.generation.from_folder import folder_digest

    asked = settings.synthesis
    read = {"folder": folder_digest(asked, fold), **asked.of_a_folder}
    return {"folder": read, "region": settings.region.model_dump(mode="json")}


def _simulate(context: dg.AssetExecutionContext, forge: Forge, folder: Path) -> Outcome:
    fold, settings = require_fold(context), forge.settings()
    split = open_split(forge, fold)
    real = open_slices(forge, "real_slices", fold)
    if not real.label_set.has_lesions:
        raise InputError(
            f"source {forge.source!r} has no lesions to simulate (label set {real.label_set.name!r}); "
            "run the job `cine`, which is the real-only half of the graph"
        )
    path, train = folder / "slices.h5", real.rows_of("train")
    if settings.from_folder:
        statistics = _write_folder(path, real, split, settings, code_version_of(context))
    else:
        write = _write_transplants if settings.transplants else _write_masks
        statistics = write(path, real, train, settings, code_version_of(context))
    write_csv(statistics, folder / "statistics.csv")
    store = SliceStore.open(path, verify=False)
    facts = store_facts(store, folder) | {"strategies": Fact.table(statistics.head(60))}
    facts |= _beside_training_slices(real, train, store, settings.simulator, folder)
    return Outcome(facts, (leak_check(store, split), class_balance(store, settings.balance)))


def _write_masks(
    path: Path, real: SliceStore, train: np.ndarray, settings: "Settings", code_version: str
) -> pd.DataFrame:
    from common.processes import worker_processes
    from gan.simulator import write_lesion_masks

    return write_lesion_masks(
        path,
        real,
        train,
        settings.synthetic_slices,
        settings.simulator,
        settings.balance,
        settings.split_seed,
        worker_processes(settings.processes),
        code_version,
    )


def _write_transplants(
    path: Path, real: SliceStore, train: np.ndarray, settings: "Settings", code_version: str
) -> pd.DataFrame:
    """Write the slices with their transplanted lesions: label maps and images in one."""
    from gan.generation.transplant import summarise_transplants, write_transplants

    count, balance = settings.synthetic_slices, settings.balance
    write_transplants(path, real, train, count, settings.transplant, balance, settings.split_seed, code_version)
    return summarise_transplants(SliceStore.open(path, verify=False))


def _write_folder(
    path: Path, real: SliceStore, split: "FoldSplit", settings: "Settings", code_version: str
) -> pd.DataFrame:
    """Write the slices that lie in a folder: label maps and images in one."""
    from gan.generation.from_folder import import_slices, summarise_folder

    import_slices(path, settings.synthesis, real, split, settings.region, settings.split_seed, code_version)
    return summarise_folder(SliceStore.open(path, verify=False))


def _beside_training_slices(
    real: SliceStore, train: np.ndarray, simulated: SliceStore, config: "SimulatorConfig", folder: Path
) -> dict[str, Fact]:
    """Compare infarct share, transmurality, wall thickness and so on with the training patients', as table and plot."""
    from gan.simulator import compare_distributions, plot_distributions, summarise_distributions

    table = compare_distributions(real, train, simulated, config)
    write_csv(table, folder / "distributions.csv")
    plot_distributions(table, folder / "distributions.png")
    return {
        "distributions": Fact.table(summarise_distributions(table), digits=3),
        "distributions_plot": image(folder / "distributions.png", folder),
    }


@dg.asset(
    deps=["pix2pix", "lesion_masks", JUDGE.name],
    partitions_def=FOLDS,
    group_name="synthesis",
    kinds={"pytorch", "hdf5"},
    owners=OWNERS,
    code_version="3",
    pool="gpu",
    check_specs=[check_spec("no_patient_leak", asset="synthetic_slices", blocking=True)],
    description="Slices drawn by Pix2Pix from the masks, transplanted, or a folder's; as they are, and varied.",
)
def synthetic_slices(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
    """Draw one slice for every simulated mask, and vary each by the recipe of `augmented_slices`."""
    settings = forge.settings()
    config: dict[str, Any] = {
        "slices": settings.synthetic_slices,
        "augment": settings.augment.model_dump(mode="json"),
    }
    if settings.paints == "lesion" and not settings.transplants and settings.synthesis.softens:
        config |= {"paint": settings.synthesis.model_dump(mode="json", include=_OF_PAINT)}
    fold = require_fold(context)
    read: list[Place] = [("pix2pix", fold, None), ("lesion_masks", fold, None)]
    if settings.synthesis.refuse:  # else the judge decides nothing
        read.append((JUDGE.name, fold, settings.seeds[0]))
        config |= {"refusal": settings.synthesis.model_dump(mode="json", include=_OF_REFUSALS)}
        if settings.transplants:
            config |= {"transplant": settings.transplant.model_dump(mode="json")}
    return forge.materialise(context, lambda folder: _draw(context, forge, folder), config, inputs=read)


def _draw(context: dg.AssetExecutionContext, forge: Forge, folder: Path) -> Outcome:
    from common.processes import worker_processes
    from imaging.augmentation.varied import write_varied_slices

    fold, settings = require_fold(context), forge.settings()
    path = folder / "slices.h5"
    _write_synthetic(forge, fold, path, code_version_of(context))
    store, split = SliceStore.open(path, verify=False), open_split(forge, fold)
    processes = worker_processes(settings.processes)
    varied = folder / VARIED_SLICES
    count = max(len(store), settings.synthetic_slices)  # of few slices in a folder each is varied several times
    write_varied_slices(
        varied, store, settings.augment, settings.split_seed, processes, code_version_of(context), count=count
    )
    facts = store_facts(store, folder) | _refused(store)
    if count > len(store):
        facts["variants_of_these_slices"] = number(count)
    facts |= {"varied": store_preview(SliceStore.open(varied, verify=False), folder, "varied.png")}
    return Outcome(facts, (leak_check(store, split),))


def _refused(store: SliceStore) -> dict[str, Fact]:
    """Return how many draws were refused and why, where any could be."""
    told = store.attributes.parameters.get("refusal")
    if told is None:
        return {}
    refused = pd.DataFrame(list(told["refused"].items()), columns=["reason", "draws"])
    return {
        "draws": number(told["draws"]),
        "draws_refused": number(int(refused["draws"].sum())),
        "refused": Fact.table(refused),
        "lesion_found_from_dice": number(told["threshold"]),
    }


def _write_synthetic(forge: Forge, fold: int, path: Path, code_version: str) -> None:
    from engine.worker.accelerator import borrowed
    from gan.generation.slices import generate_slices
    from gan.generation.transplant import take_slices, transplant_until_accepted

    settings, masks = forge.settings(), open_slices(forge, "lesion_masks", fold)
    seed = settings.split_seed
    if not settings.generates and not settings.synthesis.refuse:
        return take_slices(masks, path, seed, code_version)
    with borrowed(settings.device, settings.precision, forge.accelerator_lock(), settings.deterministic) as compute:
        chosen = _filter(forge, fold, compute) if settings.synthesis.refuse else None
        if chosen is not None and settings.transplants:
            real, config = open_slices(forge, "real_slices", fold), settings.transplant
            train = real.rows_of("train")
            return transplant_until_accepted(masks, real, train, config, path, seed, code_version, chosen)
        model, count = forge.finished("pix2pix", fold).model(), settings.synthetic_slices
        asked = settings.synthesis
        return generate_slices(model, masks, path, count, compute, seed, code_version, chosen=chosen, asked=asked)


def _filter(forge: Forge, fold: int, compute: "Compute") -> "Filter":
    """Return what refuses draws: the judge, by its own Dice on training patients' slices, and the search for copies."""
    from gan.generation.refusal import judged_by
    from imaging.slices.part import PartSlices
    from segmentation.prediction.segmenter import load_segmenter

    settings = forge.settings()
    judge = load_segmenter(forge.finished(JUDGE.name, fold, settings.seeds[0]).model(), compute)
    real = open_slices(forge, "real_slices", fold)
    train = real.rows_of("train")
    training = PartSlices.of(real, train[real.masks(train).any(axis=(1, 2))])
    asked = settings.synthesis
    copies, seed = not settings.transplants, settings.split_seed
    return judged_by(judge.labels, training, asked.refuse_quantile, asked.refuse_draws, copies, seed)
