"""A label of one test patient is corrected in the source: what follows is made again, and nothing is read unasked."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import nibabel
import numpy as np
import pandas as pd
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from assets import scores, slices, studies
from assets.parts import training_run
from assets.scores import staleness
from common.errors import InputError
from common.files import write_json
from engine.forge import Forge
from engine.record import read_record
from engine.worker.process import STAGES
from engine.worker.task import RESULT_FILE
from imaging.slices.store import SliceStore
from imaging.studies.archive import StudyArchive
from imaging.studies.split import read_split
from pipeline.definitions import all_assets, defs
from runtime.compute import choose_compute
from segmentation.model_kind import model_kinds
from tests.imaging import fake_emidec
from tests.smallest_fold import smallest_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FOLD = 0
SCORES = [kind.scores for kind in model_kinds()]
SMALL = smallest_settings(steps=1)
opened: set[str] | None = None  # by the build that is under way


def _note_opening(event, arguments):
    if event == "open" and opened is not None and isinstance(arguments[0], str | bytes | os.PathLike):
        opened.add(os.fsdecode(arguments[0]))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """One fold of a miniature EMIDEC: what each build read, what single steps said after a correction, and a rerun.

    Networks are trained in this process, untracked.
    """
    root, home = fake_emidec.write_root(tmp_path_factory.mktemp("emidec")), tmp_path_factory.mktemp("home")
    forge = Forge(source="emidec", root=str(root), profile="tiny", home=str(home), overrides=SMALL)
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setattr(Forge, "track_evaluation", lambda *_, **__: "")
        patch.setattr("assets.champion.tell_registry", lambda *_: "")
        found = SimpleNamespace(forge=forge, reads=watch_builds(patch))
        materialise(forge, instance, *all_assets)
        found.before, found.tables_before, first = versions(forge), tables(forge), len(found.reads)
        found.patient = correct_one_label(root, forge)
        found.refusals = refusals(forge, instance)
        materialise(forge, instance, *all_assets)
        assert len(found.reads) == 2 * first
        found.stale, found.after, found.tables_after = stale_assets(instance), versions(forge), tables(forge)
    return found


def materialise(forge, instance, *assets):
    fold = str(FOLD) if any(asset.partitions_def for asset in assets) else None
    assert dg.materialize(assets, resources={"forge": forge}, partition_key=fold, instance=instance).success


def watch_builds(patch):
    """Note for each build what it may be made of, its folder, and what it opened, its training's inputs among that."""
    reads, noting = [], Forge.noting
    sys.addaudithook(_note_opening)

    def watched(self, inputs, build):
        def watch(folder):
            global opened
            opened = set()
            try:
                return build(folder)
            finally:
                reads.append((inputs, folder, opened))
                opened = None

        return noting(self, inputs, watch)

    patch.setattr(Forge, "noting", watched)
    patch.setattr(training_run, "run_pipes", train_here)
    return reads


def train_here(_, task):
    compute = choose_compute(task.device, task.precision)
    trained = STAGES[task.stage](task, compute, lambda *_: None)
    write_json(Path(task.folder) / RESULT_FILE, {"scores": dict(trained.scores), "run_id": None})
    opened.update(map(str, task.inputs.values()))


def versions(forge):
    places = (path.parent for path in forge.workspace.root.rglob("record.json"))
    return {
        place.relative_to(forge.workspace.root).as_posix(): read_record(place, place.name).data_version
        for place in places
    }


def tables(forge):
    return {name: pd.read_csv(forge.finished(name, FOLD, 0).file("scores.csv")) for name in SCORES}


def correct_one_label(root, forge):
    """Turn one voxel of a test patient's wall into infarct, and return who that is."""
    split = read_split(forge.finished("patient_split").file("patient_split.json"), FOLD)
    patient = next(case for case in split.test if "P" in case)
    path = fake_emidec.mask_path(root, patient)
    mask = np.asarray(nibabel.load(path).dataobj).copy()
    mask[tuple(np.argwhere(mask == 2)[0])] = 3
    fake_emidec.write_nifti(path, mask)
    return patient


def refusals(forge, instance):
    """Materialise `studies` alone, and then single assets further down, of which each has to be refused."""
    materialise(forge, instance, studies.studies)
    said = {}
    for asset in (scores.attention_res_unet_real_only_scores, slices.training_set_real_only):
        with pytest.raises(InputError) as refused:
            materialise(forge, instance, asset)
        said[asset.key.to_user_string()] = str(refused.value)
    return said


def stale_assets(instance):
    resolver = CachingStaleStatusResolver(
        instance, defs.resolve_asset_graph(), loading_context=LoadingContextForTest(instance)
    )
    partitions = {key: None if spec.partitions_def is None else str(FOLD) for key, spec in specs().items()}
    return {
        key.to_user_string(): [cause.reason for cause in resolver.get_stale_causes(key, partition)]
        for key, partition in partitions.items()
        if resolver.get_status(key, partition) != StaleStatus.FRESH
    }


def specs():
    return {spec.key: spec for spec in defs.resolve_all_asset_specs()}


def test_every_file_that_a_build_opens_belongs_to_an_input_or_to_what_stands_behind_one(ran):
    root = ran.forge.workspace.root
    assert {inputs.reader for inputs, _, _ in ran.reads} == {key.to_user_string() for key in specs()}
    foreign = [
        (inputs.reader, path)
        for inputs, folder, paths in ran.reads
        for path in sorted(paths)
        if Path(path).is_relative_to(root) and not belongs(Path(path), root, folder, inputs)
    ]
    assert foreign == []


def belongs(path, root, folder, inputs):
    """Tell whether a file is the build's own, or of a place that its record names; a champion's key holds its book."""
    name = path.relative_to(root).as_posix()
    own = path.is_relative_to(folder) or (inputs.reader == "champion" and name.startswith("champions/"))
    return own or any(name.startswith(f"{place}/") for place in inputs.behind)


def test_what_a_record_names_is_what_the_key_covers(ran):
    for inputs, _, _ in ran.reads:
        assert inputs.behind.items() <= inputs.known.items(), inputs.reader
    read_by = {inputs.reader: {place.partition("/")[0] for place in inputs.behind} for inputs, _, _ in ran.reads}
    assert read_by["pix2pix"] >= {"augmented_slices", "real_slices", "patient_split", "studies"}
    assert read_by["training_set_real_plus_gan"] >= {"synthetic_slices", "pix2pix", "lesion_masks"}
    assert "synthesis_quality" not in read_by["training_set_real_plus_gan"]  # it guards, and is not trained on


def test_rows_tell_their_part_and_derived_slices_inherit_it(ran):
    split = read_split(ran.forge.finished("patient_split").file("patient_split.json"), FOLD)
    parts = {}
    for asset in ("real_slices", "augmented_slices", "lesion_masks", "synthetic_slices", "training_set_real_plus_gan"):
        with SliceStore.open(ran.forge.finished(asset, FOLD).file("slices.h5")) as store:
            assert (store.rows["part"] == store.rows["case_id"].map(split.part_of)).all()
            parts[asset] = set(store.rows["part"])
    assert parts.pop("real_slices") == {"train", "validation", "test"}
    assert all(found == {"train"} for found in parts.values())


def test_the_split_names_the_studies_and_the_stores_their_parents(ran):
    archive = StudyArchive.open(ran.forge.finished("studies").file("studies.h5"))
    assert archive.digest in ran.forge.finished("patient_split").file("patient_split.json").read_text()
    with SliceStore.open(ran.forge.finished("real_slices", FOLD).file("slices.h5")) as store:
        assert set(store.attributes.parent_digests) == {"studies", "patient_split", "lv_localiser"}
        assert store.attributes.parent_digests["studies"] == archive.digest


@pytest.mark.parametrize("name", ["attention_res_unet_real_only_scores", "training_set_real_only"])
def test_with_studies_read_anew_alone_nothing_is_made_of_the_old_ones(ran, name):
    assert ran.refusals[name] == (
        f"{name}: patient_split was made of another studies than lies there; rematerialise the asset 'patient_split' "
        "and what follows from it"
    )


def test_a_corrected_label_makes_everything_behind_it_anew(ran):
    assert set(ran.after) == set(ran.before)
    assert [place for place, version in ran.after.items() if ran.before[place] == version] == []
    for name in SCORES:
        own = ["metric", "rule", "tissue", "network"]
        infarct = [
            table[(table["case_id"] == ran.patient) & (table["tissue"] == "infarct")].set_index(own)["value"]
            for table in (ran.tables_before[name], ran.tables_after[name])
        ]
        assert not infarct[0].equals(infarct[1]), name


def test_nothing_is_stale_afterwards(ran):
    assert ran.stale == {}
    for kind in model_kinds():
        assert staleness(ran.forge, kind, FOLD, 0) == ""
