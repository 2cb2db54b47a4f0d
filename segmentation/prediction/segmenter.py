"""Prediction with trained segmenters: flips at test time, ensembles by averaging probabilities."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import InputError
from imaging.labels import LABEL_SETS, LabelSet
from runtime.compute import Compute
from runtime.model_card import ModelCard
from runtime.model_folder import load_weights, read_config
from segmentation.networks.attention_res_unet import AttentionResUNet
from segmentation.networks.blocks import SegmentationNetwork
from segmentation.networks.table import build_network
from segmentation.prediction.post_processing import agreed_steps, post_process
from segmentation.training.config import TrainConfig

_BATCH = 32
_BLANK_PX = 64  # side of an image that only tells the shape of features
# No flip, rows, columns, both: dimensions of (N, C, H, W).
_FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))


class Segmenter:
    """One trained network, or several whose probabilities are averaged.

    Args:
        networks: Networks in evaluation mode on the device.
        label_set: What the classes mean.
        compute: Device and precision.
        flips: Average over the four mirrored copies of each slice.
        post_processing: Keys of `post_processing.STEPS`, applied to labels in this order; none unless asked for.
        sure_lesions_only: Leave out a study's unsure lesions; `predict_study` does, slices do not know their study.
    """

    def __init__(
        self,
        networks: Sequence[SegmentationNetwork],
        label_set: LabelSet,
        compute: Compute,
        flips: bool = True,
        post_processing: Sequence[str] = (),
        sure_lesions_only: bool = False,
    ) -> None:
        if not networks:
            raise InputError("an ensemble needs at least one model; name a model folder")
        self.networks, self.label_set, self.compute, self.flips = tuple(networks), label_set, compute, flips
        self.post_processing, self.sure_lesions_only = tuple(post_processing), sure_lesions_only

    def probabilities(self, images: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the class probabilities (N, C, H, W) of images (N, H, W) in [0, 1]."""
        parts = [self._average(batch).cpu().numpy() for batch in _batches(images, self.compute)]
        if not parts:
            return np.zeros((0, self.label_set.num_classes, *images.shape[1:]), np.float32)
        return np.concatenate(parts)

    def probabilities_and_features(
        self, images: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return `probabilities` and `features` of one network and at least one image: the same, with one pass less.

        Raises:
            InputError: There are several networks; `features` are those of one.
        """
        if len(self.networks) > 1:
            raise InputError(f"features are one network's, {len(self.networks)} were given; take them one by one")
        parts = [
            _with_features(self.networks[0], batch, self.compute, self.flips)
            for batch in _batches(images, self.compute)
        ]
        probabilities, features = zip(*((first.cpu(), second.cpu()) for first, second in parts), strict=True)
        return torch.cat(probabilities).numpy(), torch.cat(features).numpy()

    def labels(self, images: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Return the label value of each pixel (N, H, W) of images (N, H, W) in [0, 1]: the most probable one.

        Where `post_processing` names steps, they correct it.
        """
        # `max` finds the same as `argmax`, which takes ten times as long on a CPU where channels lie apart.
        parts = [
            self._average(batch).max(dim=1).indices.to(torch.uint8).cpu().numpy()
            for batch in _batches(images, self.compute)
        ]
        drawn = np.concatenate(parts) if parts else np.zeros(images.shape, np.uint8)
        return post_process(drawn, self.label_set, self.post_processing)

    def features(self, images: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the first network's pooled bottleneck features (N, D) of images (N, H, W) in [0, 1]."""
        return self._of_first(images, self.networks[0].encode)

    def feature_counts(self) -> list[int]:
        """Return how many features (D) each network gives."""
        blank = next(_batches(np.zeros((1, _BLANK_PX, _BLANK_PX), np.float32), self.compute))
        with torch.inference_mode(), self.compute.fabric.autocast():
            return [int(network.encode(blank).shape[1]) for network in self.networks]

    def stage_statistics(self, images: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return mean and standard deviation of each encoder stage (N, D); the first must be an Attention Res-UNet.

        Raises:
            InputError: The first network is another one.
        """
        network = self.networks[0]
        if not isinstance(network, AttentionResUNet):
            raise InputError(f"stage statistics are those of AttentionResUNet, not of {type(network).__name__}")
        return self._of_first(images, network.stage_statistics)

    def _of_first(self, images: NDArray[np.floating], encode: Callable[[Tensor], Tensor]) -> NDArray[np.float32]:
        with torch.inference_mode(), self.compute.fabric.autocast():
            parts = [encode(batch).float().cpu().numpy() for batch in _batches(images, self.compute)]
        return np.concatenate(parts)

    def _average(self, batch: Tensor) -> Tensor:
        total = torch.zeros((), device=batch.device)
        for network in self.networks:
            total = total + network_probabilities(network, batch, self.compute, self.flips)
        return total / len(self.networks)


def network_probabilities(network: SegmentationNetwork, batch: Tensor, compute: Compute, flips: bool) -> Tensor:
    """Return the class probabilities (N, C, H, W) float32 of one batch (N, 1, H, W) on the device."""
    return _over_flips(lambda images: network(images).logits, batch, compute, flips)


def _with_features(network: SegmentationNetwork, batch: Tensor, compute: Compute, flips: bool) -> tuple[Tensor, Tensor]:
    """Return `network_probabilities`, and the pooled features (N, D) that were found on the way."""
    found: list[Tensor] = []

    def logits(images: Tensor) -> Tensor:
        if found:
            return network(images).logits
        output, features = network.segment_and_encode(images)  # the first copy is not mirrored
        found.append(features.float())
        return output.logits

    return _over_flips(logits, batch, compute, flips), found[0]


def _over_flips(logits: Callable[[Tensor], Tensor], batch: Tensor, compute: Compute, flips: bool) -> Tensor:
    """Return the probabilities (N, C, H, W), averaged over the mirrored copies of a batch if `flips`."""
    copies = _FLIPS if flips else _FLIPS[:1]
    total: Tensor | None = None
    with torch.inference_mode():
        for dims in copies:
            with compute.fabric.autocast():
                found = logits(torch.flip(batch, dims))
            probabilities = torch.flip(found.float().softmax(dim=1), dims)
            total = probabilities if total is None else total + probabilities
    assert total is not None
    return total / len(copies)


def load_segmenter(
    folder: Path, compute: Compute, flips: bool | None = None, post_processing: bool = False
) -> Segmenter:
    """Load one model folder.

    Args:
        folder: Written by `train_segmenter`.
        compute: Device and precision.
        flips: Flips at test time; None takes the training's configuration.
        post_processing: Apply what the training's validation patients chose.

    Raises:
        InputError: The folder lacks a file, or one is damaged.
    """
    return load_ensemble([folder], compute, flips, post_processing)


def load_ensemble(
    folders: Sequence[Path],
    compute: Compute,
    flips: bool | None = None,
    post_processing: bool = False,
    sure_lesions_only: bool = False,
) -> Segmenter:
    """Load several model folders (seeds, folds, or both networks) as one segmenter.

    `post_processing` applies the steps that the validation patients of every folder chose; `sure_lesions_only` is
    handed on.

    Raises:
        InputError: A folder is damaged, there is none, or their label sets differ.
    """
    label_sets = {folder: _label_set(folder) for folder in folders}
    if len({labels.name for labels in label_sets.values()}) > 1:
        named = ", ".join(f"{folder}: {labels.name}" for folder, labels in label_sets.items())
        raise InputError(f"models of different label sets cannot be averaged ({named}); choose models of one source")
    networks = [load_network(folder).to(compute.device).to(memory_format=compute.memory_format) for folder in folders]
    if flips is None:
        flips = all(read_config(folder, TrainConfig).flips_at_test_time for folder in folders)
    cards = [ModelCard.read(folder) for folder in folders] if post_processing else []
    labels = next(iter(label_sets.values()), LABEL_SETS["emidec"])
    return Segmenter(networks, labels, compute, flips, agreed_steps(cards), sure_lesions_only)


def load_network(folder: Path) -> SegmentationNetwork:
    """Load a model folder's network onto the CPU, in evaluation mode.

    Raises:
        InputError: The folder lacks a file, or its weights do not fit its configuration.
    """
    config = read_config(folder, TrainConfig)
    classes = _label_set(folder).num_classes
    try:
        network = load_weights(lambda: build_network(config.network, classes), folder)
    except RuntimeError as error:
        raise InputError(f"{folder}: its weights do not fit its config.json; rematerialise the model asset") from error
    return network.eval()


class ProbabilityNetwork(nn.Module):
    """A network that returns softmax probabilities alone, for export: (N, 1, H, W) → (N, C, H, W)."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the class probabilities (N, C, H, W) of images (N, 1, H, W) in [0, 1]."""
        return self.network(images).logits.softmax(dim=1)


def load_exportable(folder: Path) -> nn.Module:
    """Load a model folder as a CPU module from images (N, 1, H, W) to probabilities (N, C, H, W)."""
    return ProbabilityNetwork(load_network(folder)).eval()


def _label_set(folder: Path) -> LabelSet:
    name = ModelCard.read(folder).label_set
    if name not in LABEL_SETS:
        raise InputError(
            f"{folder}/model_card.json: label set {name!r} is not one of {', '.join(LABEL_SETS)}; "
            "rematerialise the model asset"
        )
    return LABEL_SETS[name]


def _batches(images: NDArray[np.floating], compute: Compute) -> Iterator[Tensor]:
    if images.ndim != 3:
        raise InputError(f"images of shape {images.shape} were given; pass (slices, rows, columns)")
    tensor = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).unsqueeze(1)
    for part in torch.split(tensor, _BATCH):
        if len(part):
            yield compute.lay_out(part)
