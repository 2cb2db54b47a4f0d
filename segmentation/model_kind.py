"""What is trained and compared: a network on a training set, and the names of its assets.

Networks stand in `segmentation.networks.table`, training sets in `TRAINING_SETS`; whatever lists models lists these.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

from common.errors import InputError
from segmentation.networks.table import NETWORKS

ARMS = REAL_ONLY, REAL_PLUS_GAN = "real_only", "real_plus_gan"


@dataclass(frozen=True)
class TrainingSet:
    """What the slices of a training set are.

    Attributes:
        title: As people write it.
        slices: The same as a phrase.
        has_synthetic: Whether some of them are synthetic.
    """

    title: str
    slices: str
    has_synthetic: bool


TRAINING_SETS: Mapping[str, TrainingSet] = MappingProxyType(
    {
        REAL_ONLY: TrainingSet("real only", "augmented real slices only", has_synthetic=False),
        REAL_PLUS_GAN: TrainingSet("real + GAN", "augmented real and synthetic slices", has_synthetic=True),
    }
)


@dataclass(frozen=True, order=True)
class ModelKind:
    """A network on a training set.

    Attributes:
        network: A key of `NETWORKS`.
        training_set: A key of `TRAINING_SETS`.
    """

    network: str
    training_set: str

    @classmethod
    def parse(cls, name: str) -> "ModelKind":
        """Return the kind that is called `name`, such as `halsr_net_real_only`.

        Raises:
            InputError: There is none; the message names those there are.
        """
        return _named("model", name, {kind.name: kind for kind in model_kinds()})

    @classmethod
    def of_scores(cls, asset: str) -> "ModelKind":
        """Return the kind that an asset such as `halsr_net_real_only_scores` scores.

        Raises:
            InputError: There is none; the message names those there are.
        """
        return _named("asset of scores", asset, {kind.scores: kind for kind in model_kinds()})

    @property
    def name(self) -> str:
        """The asset that trains it; folders, files and registered models are called so, too."""
        return f"{self.network}_{self.training_set}"

    @property
    def scores(self) -> str:
        """The asset that scores it."""
        return f"{self.name}_scores"

    @property
    def slices(self) -> str:
        """The asset that holds what it is trained on."""
        return f"training_set_{self.training_set}"

    @property
    def known(self) -> bool:
        """Whether both parts stand in their tables."""
        return self.network in NETWORKS and self.training_set in TRAINING_SETS

    @property
    def about(self) -> str:
        """What it is, as a sentence."""
        return f"{NETWORKS[self.network].title}, trained on {TRAINING_SETS[self.training_set].slices}."

    def __str__(self) -> str:
        return self.name


def _named(what: str, name: str, kinds: Mapping[str, ModelKind]) -> ModelKind:
    if name not in kinds:
        raise InputError(f"{what} {name!r} does not exist; choose one of {', '.join(kinds)}")
    return kinds[name]


def model_kinds() -> tuple[ModelKind, ...]:
    """Return every network on every training set, the sets of a network side by side."""
    return tuple(ModelKind(*parts) for parts in product(NETWORKS, TRAINING_SETS))
