"""`scarforge.yaml`: what `scarforge init` finds in a folder of studies and writes down, and `scarforge run` reads."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import Field, ValidationError

from common.config import FrozenConfig, read_yaml_file
from common.errors import InputError, some_of
from common.files import write_text
from common.pages.words import count
from common.progress import say
from engine.run_config import default_profile, overrides_of
from engine.settings import FOLDS, Seed, load_settings, suggest
from imaging.dataset_card.cautions import same_contents
from imaging.dataset_card.facts import study_name
from imaging.labels import LABEL_SETS
from imaging.phantom import PhantomConfig
from imaging.sources.config import SourceConfig
from imaging.sources.table import SOURCES, read_source, reads_folder, source_labels, source_root
from imaging.studies.archive import StudyArchive
from imaging.studies.archive_writer import write_studies
from imaging.studies.study import Study, digest_of

RUN_FILE = "scarforge.yaml"
ALL: Literal["all"] = "all"
_PROBED = 4  # items that a format may yield before the first study
_ANY_SPACING = (10.0, 1.0, 1.0)  # for pictures, which carry none, until the user says theirs
_MOST_TOLD = 20


class RunFile(FrozenConfig):
    """What is run.

    Attributes:
        source: Format of the studies.
        root: Their folder; a relative one starts at the file's own folder.
        profile: None for the one that fits the source.
        folds: Which fifths of the patients are tested.
        seeds: In place of the profile's; empty for those.
        settings: Values laid over the profile, nested or under dotted names.
    """

    source: str = "phantom"
    root: Path | None = None
    profile: str | None = None
    folds: Literal["all"] | tuple[int, ...] = (0,)
    seeds: tuple[Seed, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def overrides(self) -> list[str]:
        """The settings as `key=value`."""
        return overrides_of(self.settings)


def read_run_file(path: Path) -> RunFile:
    """Read a file that says what is run.

    Raises:
        InputError: It cannot be read, or a key or value is wrong; the message names what is allowed.
    """
    keys = "holds no keys such as source and root; `scarforge init DIR` writes such a file"
    content = read_yaml_file(path, f"--config {path}", "`scarforge init DIR` writes one", keys)
    given = {name: value for name, value in content.items() if value is not None}
    if isinstance(given.get("folds"), int):
        given["folds"] = (given["folds"],)
    try:
        found = RunFile.model_validate(given)
    except ValidationError as error:
        raise InputError(f"{path}: {_fault(error)}") from error
    if wrong := [fold for fold in found.folds if found.folds != ALL and fold not in range(FOLDS)]:
        raise InputError(f"{path}: 'folds': {some_of(wrong)} is none of 0 to {FOLDS - 1}; or write {ALL}")
    return found if found.root is None else found.model_copy(update={"root": path.parent.absolute() / found.root})


def _fault(error: ValidationError) -> str:
    first = error.errors()[0]
    key = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"{key!r} does not exist; {suggest(key, RunFile.model_fields, ())}; settings stand below `settings`"
    allowed = f"; give 0 to {FOLDS - 1}, a list of these, or {ALL}" if key == "folds" else ""
    return f"{key!r}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {first['input']!r}{allowed}"


@dataclass(frozen=True)
class ChosenRun:
    """What is run, resolved from a file and the command's options."""

    source: str
    root: Path | None
    profile: str
    folds: tuple[int, ...]
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]


def chosen_run(
    config: Path | None,
    source: str | None,
    root: Path | None,
    profile: str | None,
    fold: str | None,
    overrides: Sequence[str],
    seeds: Sequence[int],
) -> ChosenRun:
    """Return what is run: the file's values, and those that are given beside it in their place.

    Without `--source` and `--config` the file of the current folder is read, if there is one.
    """
    here = Path(RUN_FILE)
    path = config or (here if source is None and here.is_file() else None)
    told = RunFile() if path is None else read_run_file(path)
    chosen = source or told.source
    if path is not None:
        say(f"{path} says what is run, and the command's options")
    folds = told.folds if fold is None else fold if fold == ALL else (int(fold),)
    return ChosenRun(
        source=chosen,
        root=root or told.root,
        profile=profile or told.profile or default_profile(chosen),
        folds=tuple(range(FOLDS)) if folds == ALL else tuple(map(int, folds)),
        overrides=(*told.overrides, *overrides),
        seeds=tuple(seeds) or told.seeds,
    )


@dataclass(frozen=True)
class Found:
    """What lies in a folder of studies.

    Attributes:
        source: The format that it is taken for.
        root: The folder.
        config: What the format leaves open, as it was read.
        studies: The table of `StudyArchive`, a row a study.
        left_out: Why studies would be left out.
        notes: What a user should look at.
    """

    source: str
    root: Path
    config: SourceConfig
    studies: pd.DataFrame
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def open_settings(self) -> dict[str, Any]:
        """The settings `source.…` that differ from their defaults."""
        return self.config.model_dump(mode="json", exclude_defaults=True)

    def lines(self) -> Iterator[str]:
        """Yield what is told of the folder."""
        yield f"{self.root}: taken for {self.source} ({SOURCES[self.source].about})"
        patients, slices = self.studies["case_id"].nunique(), int(self.studies["slices"].sum())
        studies = count(len(self.studies), "study", "studies")
        yield f"{count(patients, 'patient')}, {studies}, {count(slices, 'slice')}; {self._ill()}"
        spans = (_span(self.studies[f"{axis}_mm"]) for axis in ("slice", "row", "column"))
        yield "spacing (slice, row, column): " + ", ".join(spans) + " mm"
        yield f"left out: {len(self.left_out) or 'none'}"
        yield from (f"  {reason}" for reason in self.left_out[:_MOST_TOLD])
        if len(self.left_out) > _MOST_TOLD:
            yield f"  and {len(self.left_out) - _MOST_TOLD} more"
        yield from (f"note: {note}" for note in self.notes)

    def _ill(self) -> str:
        labels = source_labels(self.source, self.config)
        if not labels.has_lesions:
            return "no lesions are drawn: the real-only half of the graph runs"
        counts = {tissue: self._patients_with(f"ml_{tissue}") for tissue in ("infarct", "no_reflow")}
        return ", ".join(f"{count} with {tissue.replace('_', '-')}" for tissue, count in counts.items())

    def _patients_with(self, column: str) -> int:
        return int(self.studies.loc[self.studies[column] > 0, "case_id"].nunique())


def _span(values: "pd.Series[float]") -> str:
    low, high = f"{values.min():.3g}", f"{values.max():.3g}"
    return low if low == high else f"{low} to {high}"


def look_into(root: Path, source: str | None = None, overrides: Sequence[str] = ()) -> Found:
    """Read a folder of studies as a run would, and say what is in it.

    Args:
        root: The folder.
        source: Its format; None finds out.
        overrides: `source.key=value` for what a format leaves open.

    Raises:
        InputError: No format fits, or no study can be used.
    """
    given = load_settings("quick", overrides).source
    name, config, notes = (source, given, ()) if source else _recognised(root, given)
    source_root(name, root)
    with tempfile.TemporaryDirectory(prefix="scarforge_") as folder:
        items = read_source(name, root, PhantomConfig(), config)
        path = Path(folder) / "studies.h5"
        summary = write_studies(path, items, source_labels(name, config), name, minimum_patients=1)
        archive = StudyArchive.open(path)
        studies, read_notes = archive.table(), tuple(archive.notes())
        twins = tuple(_twins(archive))
    found = Found(name, root.absolute(), config, studies, tuple(each.reason for each in summary.rejected))
    return replace(found, notes=(*notes, *read_notes[:_MOST_TOLD], *twins, *_cautions(found)))


def _recognised(root: Path, given: SourceConfig) -> tuple[str, SourceConfig, tuple[str, ...]]:
    """Return the first format that finds a study in the folder; those that fix more come first in the table."""
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"{root}: {what}; give the folder that holds the studies")
    reasons = {}
    for name in filter(reads_folder, SOURCES):
        for config, note in _readings(name, given):
            try:
                first = islice(read_source(name, root, PhantomConfig(), config), _PROBED)
                if any(isinstance(item, Study) for item in first):
                    return name, config, (note,) if note else ()
            except InputError as error:
                reasons[name] = str(error)
    told = " | ".join(f"{name}: {reason}" for name, reason in reasons.items() if name in ("nifti", "image_pairs"))
    raise InputError(
        f"{root}: is none of the formats {', '.join(filter(reads_folder, SOURCES))}; arrange it as docs/formats.md "
        f"tells, or name its format by --source ({told})"
    )


def _readings(name: str, given: SourceConfig) -> Iterator[tuple[SourceConfig, str]]:
    """Yield the ways in which a format may be read, with what is to be said of each."""
    if name != "image_pairs" or given.spacing_mm is not None:
        yield given, ""
    else:
        guess = given.model_copy(update={"spacing_mm": _ANY_SPACING})
        yield guess, "pictures carry no spacing: correct settings.source.spacing_mm, or every volume in mL is wrong"
    if SOURCES[name].label_set is None and given == SourceConfig():
        others = (label_set for label_set in LABEL_SETS if label_set != given.label_set)
        spacing = _ANY_SPACING if name == "image_pairs" else None
        for label_set in others:
            note = f"the masks fit label set {label_set!r} and no other; see settings.source"
            yield given.model_copy(update={"label_set": label_set, "spacing_mm": spacing}), note


def _twins(archive: StudyArchive) -> Iterator[str]:
    studies = ((study_name(*key), archive.load(*key)) for key in archive.keys())  # noqa: SIM118 # no mapping
    return same_contents((name, digest_of(one.image), digest_of(one.native_mask)) for name, one in studies)


def _cautions(found: Found) -> Iterator[str]:
    patients = found.studies["case_id"].nunique()
    if patients < FOLDS:
        yield f"{patients} patients are too few: five folds need at least {FOLDS}"
    labels = source_labels(found.source, found.config)
    if labels.has_lesions and not (found.studies["ml_infarct"] > 0).any():
        yield "no mask holds an infarct; where the masks are of cine, set settings.source.label_set to cine"


def check_free(path: Path, force: bool) -> None:
    """Refuse to replace a file that is there, unless that is wanted."""
    if path.exists() and not force:
        raise InputError(f"{path}: is there already; give --force to replace it, or another place by --output")


def write_run_file(path: Path, found: Found, profile: str | None = None) -> None:
    """Write what was found as a commented file for `scarforge run`.

    Raises:
        InputError: It cannot be written.
    """
    write_text(path, run_file_text(found, profile or default_profile(found.source)))


def run_file_text(found: Found, profile: str) -> str:
    """Return the commented file."""
    settings = {"source": found.open_settings} if found.open_settings else {}
    values = _indented(settings) if settings else "  {}\n"
    told = "".join(f"# {line}\n" for line in found.lines())
    return f"""\
# What `scarforge run` does in this folder; elsewhere: scarforge run --config {RUN_FILE}
# Options of the command come before what stands here.
#
{told}
source: {found.source}
root: {json.dumps(str(found.root), ensure_ascii=False)}

# quick: two CPU cores, an hour or two a fold. best: LGE from a start in cine, as measured.
# paper: full counts, three seeds, a GPU. tiny: to try the wiring.
profile: {profile}

# Which fifths of the patients are tested: all, one (0 to 4), or several ([0, 1]).
# A verdict for the method takes all of them and two seeds.
folds: all

# One segmenter is trained for each; empty: the profile's.
seeds: []

# Laid over the profile, nested or dotted, such as
#   pix2pix: {{steps: 5000}}
#   training_slices: 6000
# Of formats that leave it open, settings.source says label_set, label_values, spacing_mm, patient_pattern and
# one_slice_per_patient.
settings:
{values}"""


def _indented(settings: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    return "".join(f"  {line}\n" for line in text.splitlines())
