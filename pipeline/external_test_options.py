"""What a user of `scarforge external-test` may choose, checked before anything is read."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from imaging.errors import InputError
from imaging.sources import source_format, source_root
from pipeline.predict_models import ModelName
from pipeline.settings import Settings, load_settings, profile_names

LOCALISER, REFERENCE = "localiser", "reference"
CROPS = (LOCALISER, REFERENCE)
_SET = ("source.", "phantom.")


@dataclass(frozen=True)
class ExternalTestOptions:
    """What a user may choose.

    Attributes:
        models: Each `SOURCE/PROFILE/NETWORK/TRAINING_SET`.
        source: A key of `imaging.sources.SOURCES`.
        root: The folder of its studies; None for a source that needs none.
        output: Folder of the tables.
        fold: Only this fold's models.
        localiser: `SOURCE/PROFILE` whose localisers are taken.
        crop: Cut around the localiser's box or around the reference's.
        flips: Flips at test time; None does as each model's configuration says.
        post_processing: Correct label maps by the steps that each model's validation patients chose, and leave out
            unsure lesions unless those patients lose by it.
        overrides: `source.` and `phantom.` settings, `key=value`.
    """

    models: tuple[str, ...]
    source: str
    root: Path | None
    output: Path
    fold: int | None = None
    localiser: str | None = None
    crop: str = LOCALISER
    flips: bool | None = None
    post_processing: bool = False
    overrides: tuple[str, ...] = ()

    @property
    def around_reference(self) -> bool:
        """Whether regions are cut around the reference."""
        return self.crop == REFERENCE

    @property
    def used_root(self) -> Path | None:
        """The folder of the studies; None for a source that is drawn."""
        return self.root if source_format(self.source).needs_root else None


def checked_names(options: ExternalTestOptions) -> list[ModelName]:
    """Return the models' names after a look at everything that needs no file."""
    names = [ModelName.parse(text) for text in options.models]
    twice = [str(name) for name, times in Counter(names).items() if times > 1]
    if twice or not names:
        raise InputError(
            f"model {twice[0]} is named twice; name it once" if twice else "no model is named; give --model"
        )
    if options.crop not in CROPS:
        raise InputError(f"--crop {options.crop!r} is unknown; choose one of {', '.join(CROPS)}")
    if options.around_reference and options.localiser is not None:
        raise InputError("--crop reference needs no localiser; leave out one of --crop and --localiser")
    source_root(options.source, options.root)
    return names


def source_settings(name: ModelName, options: ExternalTestOptions) -> Settings:
    """Return the settings that tell how the source is read; the first model's profile says what a phantom draws."""
    for override in options.overrides:
        if not override.startswith(_SET):
            raise InputError(f"--set {override!r} would change nothing here; only {' and '.join(_SET)} settings count")
    profile = name.profile if name.profile in profile_names() else "quick"
    return load_settings(profile, options.overrides)
