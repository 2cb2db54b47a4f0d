"""The golden list: the exact assets and what each reads."""

from pathlib import Path

import dagster as dg
import pytest

from pipeline.automation.scheduled_jobs import JOBS, job_for
from pipeline.definitions import defs
from segmentation.model_kind import model_kinds

# The table of the design: what stands further up is behind these.
_SCORES = {
    "attention_res_unet_real_only_scores",
    "attention_res_unet_real_plus_gan_scores",
    "halsr_net_real_only_scores",
    "halsr_net_real_plus_gan_scores",
}
GRAPH = {
    "studies": set(),
    "patient_split": {"studies"},
    "lv_localiser": {"patient_split"},
    "real_slices": {"lv_localiser"},
    "augmented_slices": {"real_slices"},
    "pix2pix": {"augmented_slices"},
    "lesion_masks": {"real_slices"},
    "synthetic_slices": {"pix2pix", "lesion_masks", "attention_res_unet_real_only"},
    "training_set_real_only": {"augmented_slices"},
    "attention_res_unet_real_only": {"training_set_real_only"},
    "halsr_net_real_only": {"training_set_real_only"},
    "synthesis_quality": {"synthetic_slices", "attention_res_unet_real_only"},
    "training_set_real_plus_gan": {"augmented_slices", "synthesis_quality"},
    "attention_res_unet_real_plus_gan": {"training_set_real_plus_gan"},
    "halsr_net_real_plus_gan": {"training_set_real_plus_gan"},
    **{name: {name.removesuffix("_scores")} for name in _SCORES},
    "comparison": _SCORES,
    "champion": _SCORES,
}
GROUPS = {  # in reading order
    "data": {"studies", "patient_split", "lv_localiser", "real_slices", "augmented_slices"},
    "real_only": {"training_set_real_only", "attention_res_unet_real_only", "halsr_net_real_only"},
    "synthesis": {"pix2pix", "lesion_masks", "synthetic_slices"},
    "quality": {"synthesis_quality"},
    "real_plus_gan": {
        "training_set_real_plus_gan",
        "attention_res_unet_real_plus_gan",
        "halsr_net_real_plus_gan",
    },
    "evaluation": _SCORES | {"comparison", "champion"},
}
UNPARTITIONED = {"studies", "patient_split", "comparison"}


@pytest.fixture(scope="module")
def specs():
    return {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def test_the_graph_is_the_designed_one(specs):
    found = {name: {dep.asset_key.to_user_string() for dep in spec.deps} for name, spec in specs.items()}
    assert found == GRAPH


def test_there_are_no_more_edges_than_those(specs):
    assert sum(len(spec.deps) for spec in specs.values()) == sum(map(len, GRAPH.values())) == 30


def test_no_input_is_named_that_another_input_stands_before(specs):
    def behind(name):
        return GRAPH[name].union(*(behind(near) for near in GRAPH[name]))

    implied = {name: [far for far in near if any(far in behind(one) for one in near)] for name, near in GRAPH.items()}
    assert {name: far for name, far in implied.items() if far} == {
        # Synthetic slices are made of the judge only where it may refuse some; their quality always is judged.
        "synthesis_quality": ["attention_res_unet_real_only"],
        # The blocking checks of the quality guard this arm, which takes real slices, too.
        "training_set_real_plus_gan": ["augmented_slices"],
    }


def test_groups_are_read_in_order_and_never_back(specs):
    found: dict[str, set[str]] = {}
    for name, spec in specs.items():
        found.setdefault(spec.group_name, set()).add(name)
    assert found == GROUPS
    order = {name: place for place, group in enumerate(GROUPS) for name in GROUPS[group]}
    back = [(dep, name) for name, spec in specs.items() for dep in _names(spec) if order[dep] > order[name]]
    assert back == []


def _names(spec):
    return [dep.asset_key.to_user_string() for dep in spec.deps]


def test_fold_is_the_only_partition(specs):
    for name, spec in specs.items():
        keys = None if spec.partitions_def is None else spec.partitions_def.get_partition_keys()
        assert keys == (None if name in UNPARTITIONED else ["0", "1", "2", "3", "4"]), name


def test_every_asset_tells_what_it_is(specs):
    for name, spec in specs.items():
        assert spec.description, name
        assert spec.group_name != "default", name
        assert spec.kinds, name
        assert spec.owners, name
        assert spec.code_version, name


def test_every_job_runs_the_whole_graph_for_a_fold():
    for profile, unresolved in JOBS.items():
        job = defs.resolve_job_def(unresolved.name)
        assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == set(GRAPH), profile


def test_the_cine_job_runs_the_real_only_half():
    job = defs.resolve_job_def("cine")
    chosen = {key.to_user_string() for key in job.asset_layer.executable_asset_keys}
    synthesis = {"pix2pix", "lesion_masks", "synthetic_slices", "synthesis_quality"}
    assert chosen == {name for name in GRAPH if "gan" not in name} - synthesis - {"comparison"}


@pytest.mark.parametrize(("has_lesions", "name"), [(True, "quick_fold"), (False, "cine")])
def test_a_source_without_lesions_gets_the_cine_job(has_lesions, name):
    assert job_for("quick", has_lesions).name == name


def test_what_guards_the_science_blocks():
    blocking = {
        (key.asset_key.to_user_string(), key.name)
        for assets in defs.assets
        for key, spec in ((s.key, s) for s in assets.check_specs)
        if spec.blocking
    }
    for store in ("augmented_slices", "lesion_masks", "synthetic_slices"):
        assert (store, "no_patient_leak") in blocking
    for arm in ("real_only", "real_plus_gan"):
        assert (f"training_set_{arm}", "no_patient_leak") in blocking
        assert (f"training_set_{arm}", "size_as_configured") in blocking
    assert ("synthesis_quality", "adherence") in blocking


def test_definitions_load():
    dg.Definitions.validate_loadable(defs)


def test_the_champion_page_shows_how_fresh_it_is(specs):
    assert specs["champion"].freshness_policy is not None


def test_every_kind_of_model_is_trained_and_scored_by_an_asset_whose_name_is_written_out(specs):
    trained = {name for name, spec in specs.items() if "training_set" in spec.tags}
    assert trained == {name for kind in model_kinds() for name in (kind.name, kind.scores)}
    for kind in model_kinds():
        for name in (kind.name, kind.scores):
            tags = specs[name].tags
            assert (tags["network"], tags["training_set"]) == (kind.network, kind.training_set)
        assert f'segmenter("{kind.name}")' in Path("assets/segmenters.py").read_text(encoding="utf-8")
        assert f'scores("{kind.scores}")' in Path("assets/scores.py").read_text(encoding="utf-8")
