"""Describes an archive of studies on one page, for whoever is about to train on it."""

from pathlib import Path

from imaging.dataset_card.facts import StudyFacts, study_facts, study_name
from imaging.dataset_card.figures import intensity_figure, volume_figure
from imaging.dataset_card.page import render_page
from imaging.dataset_card.pictures import Tile, patients_pictured, slice_tile
from imaging.dataset_card.summary import DatasetCard, summarise
from imaging.errors import InputError, some_of
from imaging.guard import guarded
from imaging.progress import track
from imaging.regions import RegionConfig
from imaging.study_archive import StudyArchive
from imaging.write_aside import written_aside


def write_dataset_card(archive: StudyArchive, path: Path, region: RegionConfig) -> DatasetCard:
    """Write the page and return what it says; the same archive and configuration give the same bytes.

    Args:
        archive: Of at least one study; read once, one study at a time.
        path: The HTML file, written aside and renamed.
        region: How regions will be cut.

    Raises:
        InputError: The archive has been replaced while in use, or the page cannot be written.
    """
    facts, tiles, problems = _read(archive, region)
    card = summarise(archive, facts, region)
    card.warnings[:0] = [f"Not described: {problem}" for problem in problems]
    volumes = volume_figure(facts, archive.groups(), archive.label_set)
    page = render_page(card, tiles, volumes, intensity_figure(facts, archive.label_set, region))
    _write(Path(path), page)
    return card


def _read(archive: StudyArchive, region: RegionConfig) -> tuple[list[StudyFacts], list[Tile], list[str]]:
    """Return the facts of all studies, the pictures, and one line for each study that cannot be described."""
    pictured = patients_pictured(archive.groups())
    facts: list[StudyFacts] = []
    problems: list[str] = []
    tiles: dict[str, Tile | None] = dict.fromkeys(pictured)
    for case_id, frame in track(archive.keys(), "describing studies"):
        study = archive.load(case_id, frame)
        with guarded(study_name(case_id, frame), problems.append):
            facts.append(study_facts(study, archive.label_set, region))
            if case_id in tiles and tiles[case_id] is None:
                tiles[case_id] = slice_tile(study, archive.label_set, region)
    if not facts:
        raise InputError(f"no study of source {archive.source!r} can be described: {some_of(problems, most=1)}")
    return facts, [tile for tile in tiles.values() if tile], problems


def _write(path: Path, page: str) -> None:
    try:
        with written_aside(path) as partial:
            partial.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}); free disk space or correct the permissions") from error
