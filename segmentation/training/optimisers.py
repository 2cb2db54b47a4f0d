"""The learning rate and the optimiser.

Muon: gradient descent by orthogonal matrices, which trains convolutions in fewer steps than AdamW.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); step lengths as in Liu et al. 2025, "Muon is scalable
for LLM training", section 2.2. PyTorch's own `torch.optim.Muon` takes matrices only, no convolutions.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from segmentation.training.config import TrainConfig

Key = TypeVar("Key")

_MOMENTUM = 0.95
# Of the odd polynomial that brings singular values near to one (Jordan et al. 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_RMS_OF_ADAM = 0.2  # usual root mean square of an AdamW update, in learning rates (Liu et al. 2025)


class Muon(torch.optim.AdamW):
    """Muon for convolution weights, AdamW for everything else, at one learning rate.

    A weight (O, I, K, K) is a matrix of O rows. Its step is the orthogonal matrix nearest to the (Nesterov) momentum
    of its gradient: every direction of the matrix is learnt at the same pace, not only the few that dominate the
    gradient. Steps are as long as AdamW's, so that both take the same learning rates.

    Args:
        convolutions: Weights of convolutions with several inputs and outputs; see `is_matrix`.
        others: Groups of parameters for AdamW.
        lr: Learning rate of both.
        weight_decay: Of the convolutions; decoupled, as AdamW's.
    """

    def __init__(
        self, convolutions: list[nn.Parameter], others: Iterable[dict[str, Any]], lr: float, weight_decay: float
    ) -> None:
        orthogonal = {"params": convolutions, "weight_decay": weight_decay, "orthogonal": True}
        super().__init__([orthogonal, *({**group, "orthogonal": False} for group in others)], lr=lr, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; a convolution's gradient is used up by it."""
        for group in self.param_groups:
            if group["orthogonal"]:
                self._step_orthogonally(group)
        return super().step(closure)  # passes over parameters without gradient

    def _step_orthogonally(self, group: dict[str, Any]) -> None:
        trained = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not trained:
            return
        torch._foreach_mul_(trained, 1 - group["lr"] * group["weight_decay"])
        for parameter, update in zip(trained, _orthogonal([self._momentum(p) for p in trained]), strict=True):
            length = _RMS_OF_ADAM * math.sqrt(max(_matrix_shape(parameter)))
            parameter.add_(update, alpha=-group["lr"] * length)
            parameter.grad = None

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        """Add the gradient to its moving average; return what Nesterov's method steps along."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            # AdamW wants a step count in every state that it loads.
            state.update(step=torch.tensor(0.0), momentum=torch.zeros_like(parameter))
        state["step"] += 1
        state["momentum"].lerp_(parameter.grad, 1 - _MOMENTUM)
        return parameter.grad.lerp(state["momentum"], _MOMENTUM)


def is_matrix(parameter: Tensor, smallest: int = 16) -> bool:
    """Return whether a parameter is a convolution's weight with enough rows and columns to be orthogonalised."""
    return parameter.dim() == 4 and min(_matrix_shape(parameter)) >= smallest


def orthogonalise(groups: list[Tensor]) -> list[Tensor]:
    """Bring all singular values of matrices near to one, between 0.7 and 1.2, keeping their directions.

    Each round multiplies by a polynomial of the square matrix X Xᵀ. The rounds are run on that small matrix alone and
    what they multiply to is applied once: convolutions have many more columns than rows. Square matrices of one size
    go through the rounds together, whatever groups they are of: a GPU is told so much the less often what to do.

    Args:
        groups: Of matrices of one shape each, (N, R, C).
    """
    wide = [group.mT if _is_tall(group) else group for group in groups]
    wide = [group / (group.norm(dim=(1, 2), keepdim=True) + 1e-7) for group in wide]
    turned = list(groups)
    for places in _places_by([group.shape[1] for group in wide]).values():
        applied = _rounds(torch.cat([wide[place] @ wide[place].mT for place in places]))
        for place, part in zip(places, torch.split(applied, [len(wide[place]) for place in places]), strict=True):
            turned[place] = part @ wide[place]
    return [matrices.mT if _is_tall(group) else matrices for matrices, group in zip(turned, groups, strict=True)]


def _rounds(gram: Tensor) -> Tensor:
    """Return what all rounds together multiply the matrices by whose X Xᵀ are given, (N, R, R)."""
    a, b, c = _COEFFICIENTS
    one = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    factor = applied = a * one + b * gram + c * gram @ gram
    for _ in range(_ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = a * one + b * gram + c * gram @ gram
        applied = factor @ applied
    return applied


def _orthogonal(gradients: list[Tensor]) -> list[Tensor]:
    """Orthogonalise the gradients (O, I, K, K) of several convolutions, those of one shape together."""
    by_shape = _places_by([_matrix_shape(gradient) for gradient in gradients])
    groups = [torch.stack([gradients[place].reshape(shape) for place in by_shape[shape]]) for shape in by_shape]
    found = list(gradients)
    for places, matrices in zip(by_shape.values(), orthogonalise(groups), strict=True):
        for place, matrix in zip(places, matrices, strict=True):
            found[place] = matrix.reshape(gradients[place].shape)
    return found


def _places_by(keys: list[Key]) -> dict[Key, list[int]]:
    """Return where in the list each key stands."""
    places: dict[Key, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return places


def _is_tall(matrices: Tensor) -> bool:
    return matrices.shape[1] > matrices.shape[2]


def _matrix_shape(weight: Tensor) -> tuple[int, int]:
    return weight.shape[0], weight[0].numel()


PLATEAU_ROUNDS = 5  # source B: a tenth after five stale epochs
_PLATEAU_FACTOR = 0.1


def learning_rate_at(config: TrainConfig, step: int, scores: Sequence[float] = ()) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, then cosine fall, plateaus or constant.

    Args:
        config: Schedule, peak, warm-up and last share.
        step: Counted from 0.
        scores: Validation score of each round so far, by which `plateau` falls. A checkpoint keeps them, so that a
            resumed training has the rates of an uninterrupted one.
    """
    warmup = round(config.warmup_share * config.steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    last = config.final_learning_rate_share
    if config.schedule == "plateau":
        return config.learning_rate * max(_PLATEAU_FACTOR ** count_plateaus(scores), last)
    progress = (step - warmup) / max(config.steps - warmup, 1)
    return config.learning_rate * (last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2)


def count_plateaus(scores: Sequence[float], rounds: int = PLATEAU_ROUNDS) -> int:
    """Return how many times `rounds` scores in succession have stayed at or below the best before them."""
    best, stale, plateaus = -math.inf, 0, 0
    for score in scores:
        best, stale = (score, 0) if score > best else (best, stale + 1)
        if stale == rounds:
            stale, plateaus = 0, plateaus + 1
    return plateaus


def build_optimiser(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the configured optimiser; it decays convolution weights and leaves biases and norms alone."""
    takes_muon = is_matrix if config.optimiser == "muon" else lambda _: False
    orthogonal = [p for p in network.parameters() if takes_muon(p)]
    rest = [p for p in network.parameters() if not takes_muon(p)]
    groups = [
        {"params": [p for p in rest if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    return Muon(orthogonal, groups, config.learning_rate, config.weight_decay)
