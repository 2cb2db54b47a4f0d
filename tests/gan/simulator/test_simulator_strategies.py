import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from common.errors import InputError
from common.seeds import random_generator
from gan.generation.hole import ventricle_hole
from gan.simulator import STRATEGIES, WARPED_ANATOMY, MaskSimulator, SimulatorConfig, StrategyShares
from gan.simulator.anatomy import read_anatomy
from gan.simulator.lesion_model import LesionModel, LesionPlan, angle_between, measure_lesion
from gan.simulator.lesions import (
    Donor,
    best_shift,
    grow_infarct,
    grow_lesion,
    grow_no_reflow,
    infarct_core,
    remove_small,
    roll_up,
    unroll,
)
from imaging.labels import CINE_LABELS, EMIDEC_LABELS, Tissue
from tests.gan.simulator_slices import SIZE, add_lesion, draw_masks, ring
from tests.real_data import real_data

SEEDS = st.integers(0, 10_000)


def only(strategy: str, **settings) -> SimulatorConfig:
    return SimulatorConfig(shares=StrategyShares(**{name: float(name == strategy) for name in STRATEGIES}), **settings)


@pytest.fixture(scope="module")
def simulators():
    masks, patients = draw_masks()
    made = {name: MaskSimulator(masks, patients, EMIDEC_LABELS, only(name)) for name in STRATEGIES}
    return made | {"all": MaskSimulator(masks, patients, EMIDEC_LABELS, SimulatorConfig())}


def assert_obeys_anatomy(mask):
    """A closed ring around a cavity; no-reflow touches neither healthy wall nor what lies outside."""
    anatomy = read_anatomy(mask)
    assert anatomy.closed
    assert (mask == Tissue.CAVITY).any()
    beside = ndimage.binary_dilation(mask == Tissue.NO_REFLOW)
    assert not (beside & (mask == Tissue.NORMAL_MYOCARDIUM)).any()
    assert not (beside & (mask == Tissue.BACKGROUND)).any()


@settings(max_examples=25)
@given(SEEDS, st.sampled_from(STRATEGIES), st.sampled_from(["no_infarct", "infarct", "no_reflow"]))
def test_every_mask_obeys_anatomy_and_its_limits(simulators, seed, strategy, category):
    simulator = simulators[strategy]
    draft = simulator.simulate(category, random_generator(seed, "test"))
    assert_obeys_anatomy(draft.mask)
    anatomy = read_anatomy(draft.mask)
    measures = measure_lesion(anatomy, draft.mask[anatomy.box])
    if category == "no_infarct":
        assert measures.infarct_share == 0
        assert draft.strategy in (WARPED_ANATOMY, "synthetic_anatomy")
    else:
        assert 0.1 <= measures.infarct_share <= 0.5
        assert draft.strategy == strategy
    if category == "no_reflow":
        assert 0.1 <= measures.no_reflow_share <= 0.4
    else:
        assert measures.no_reflow_share == 0
    assert draft.mask.shape == draft.hole.shape == (SIZE, SIZE)
    assert (draft.hole[draft.mask > 0] == 1).all()
    assert (draft.hole[simulator.masks[draft.row] > 0] == 1).all()
    assert draft.row in draft.lenders


@settings(max_examples=15)
@given(SEEDS)
def test_fusion_lends_from_another_patient(simulators, seed):
    simulator = simulators["cross_subject_fusion"]
    draft = simulator.simulate("infarct", random_generator(seed, "test"))
    recipient, donor = draft.lenders
    assert simulator.patients[recipient] != simulator.patients[donor]
    assert (simulator.masks[donor] >= Tissue.INFARCT).any()


@settings(max_examples=15)
@given(SEEDS)
def test_hybrid_injection_and_fusion_keep_the_recipients_anatomy(simulators, seed):
    for name in ("hybrid_injection", "cross_subject_fusion"):
        draft = simulators[name].simulate("no_reflow", random_generator(seed, "test"))
        recipient = simulators[name].masks[draft.row]
        np.testing.assert_array_equal(np.minimum(draft.mask, 2), np.minimum(recipient, 2))


def test_the_same_seed_gives_the_same_mask(simulators):
    drafts = [simulators["all"].simulate("no_reflow", random_generator(3, "test")) for _ in range(2)]
    np.testing.assert_array_equal(drafts[0].mask, drafts[1].mask)
    assert drafts[0].lenders == drafts[1].lenders


def test_holes_reach_further_by_up_to_the_spread():
    masks, patients = draw_masks()
    simulator = MaskSimulator(masks, patients, EMIDEC_LABELS, SimulatorConfig(hole_margin_px=2, hole_spread_px=3))
    reaches = set()
    for seed in range(24):
        draft = simulator.simulate("infarct", random_generator(seed, "test"))
        both = np.stack([draft.mask, simulator.masks[draft.row]])
        holes = {margin: ventricle_hole(both, margin).max(axis=0) for margin in range(9)}
        reaches |= {margin for margin, hole in holes.items() if np.array_equal(hole, draft.hole)}
    assert reaches == {2, 3, 4, 5}


@pytest.mark.parametrize("share", [0.15, 0.3, 0.45])
def test_an_infarct_starts_at_the_endocardium_and_has_its_planned_share(share):
    anatomy = read_anatomy(ring(inner=12, wall=9))
    plan = LesionPlan(share, 0.0, 0.5, 1.0)
    grown = [grow_infarct(anatomy, plan, random_generator(0, "grow", index)) for index in range(10)]
    for lesion in grown:
        assert lesion.sum() / anatomy.myocardium.sum() == pytest.approx(share, abs=0.05)
        clusters, count = ndimage.label(lesion, np.ones((3, 3)))
        for cluster in range(1, count + 1):
            assert (anatomy.depth[clusters == cluster] < 0.35).any()
    depth = anatomy.depth[anatomy.myocardium]
    often = np.mean([lesion[anatomy.myocardium] for lesion in grown], axis=0)
    assert often[depth < 0.3].mean() > often[depth > 0.7].mean()


def test_an_infarct_stays_in_its_sector():
    anatomy = read_anatomy(ring(inner=12, wall=9))
    plan = LesionPlan(0.2, 0.0, 0.33, 2.0)
    for index in range(10):
        lesion = grow_infarct(anatomy, plan, random_generator(0, "sector", index))
        away = np.degrees(np.abs(angle_between(anatomy.angle[lesion], 2.0)))
        assert np.quantile(away, 0.95) < 75


def test_no_reflow_grows_in_the_core():
    anatomy = read_anatomy(ring(inner=12, wall=9))
    labels = grow_lesion(anatomy, LesionPlan(0.3, 0.25, 0.4, 0.0), random_generator(0, "core"))
    no_reflow = labels == Tissue.NO_REFLOW
    assert no_reflow.any()
    assert not (no_reflow & ~infarct_core(anatomy, labels >= Tissue.INFARCT)).any()


def test_a_lesion_without_a_core_gets_no_no_reflow():
    anatomy = read_anatomy(ring(inner=12, wall=9))
    outermost = np.nan_to_num(anatomy.depth) > 0.85
    plan = LesionPlan(0.3, 0.25, 0.4, 0.0)
    assert not grow_no_reflow(anatomy, outermost, plan, random_generator(0, "thin")).any()


def test_small_clusters_are_removed():
    region = np.zeros((8, 8), bool)
    region[0, 0] = region[4:7, 4:7] = True
    assert remove_small(region, 2).sum() == 9
    assert not remove_small(np.zeros((4, 4), bool), 2).any()


def test_a_wall_unrolled_and_rolled_up_is_nearly_itself():
    mask = add_lesion(ring(inner=12, wall=9), 1.0, 0.9, no_reflow=True)
    anatomy = read_anatomy(mask)
    labels = mask[anatomy.box]
    back = roll_up(unroll(anatomy, labels), anatomy, 0.0)
    wall = anatomy.myocardium
    assert (back[wall] == labels[wall]).mean() > 0.93


def test_turning_a_wall_turns_its_lesion():
    mask = add_lesion(ring(inner=12, wall=9), 0.5, 0.7, no_reflow=False)
    anatomy = read_anatomy(mask)
    turned = roll_up(unroll(anatomy, mask[anatomy.box]), anatomy, np.radians(60))
    angle = measure_lesion(anatomy, turned).angle
    assert abs(float(angle_between(angle, 0.5 + np.radians(60)))) < 0.1


def test_the_best_shift_finds_the_way_back():
    mask = add_lesion(ring(inner=12, wall=9), 1.0, 0.9, no_reflow=False)
    anatomy = read_anatomy(mask)
    places = np.argwhere(mask[anatomy.box] == 3)
    depth = anatomy.depth[places[:, 0], places[:, 1]]
    misfit, shift = best_shift(places - np.array(anatomy.centre) + [4, -6], depth, anatomy, 10)
    np.testing.assert_array_equal(shift, [-4, 6])
    assert misfit < 0.01


def test_a_lesion_that_does_not_fit_is_refused():
    masks = np.stack([add_lesion(ring(inner=8, wall=12), 0.0, 1.0, False), ring(inner=17, wall=3)])
    simulator = MaskSimulator(masks, ["A", "B"], EMIDEC_LABELS, only("cross_subject_fusion", maximum_misfit=0))
    assert isinstance(simulator._donors[0], Donor)
    with pytest.raises(InputError, match="the lesion does not fit"):
        simulator.simulate("infarct", random_generator(0, "x"))


def test_without_training_lesions_they_are_grown_and_never_fused():
    masks, patients = draw_masks(lesions=False)
    simulator = MaskSimulator(masks, patients, EMIDEC_LABELS, SimulatorConfig())
    shares = simulator.possible("no_reflow")
    assert set(shares) == {"synthetic_anatomy", "hybrid_injection"}
    assert sum(shares.values()) == pytest.approx(1)
    for index in range(5):
        draft = simulator.simulate("no_reflow", random_generator(0, "normal", index))
        assert (draft.mask == Tissue.NO_REFLOW).any()


def test_fusion_alone_without_donors_gives_its_share_to_growing():
    masks, patients = draw_masks(lesions=False)
    simulator = MaskSimulator(masks, patients, EMIDEC_LABELS, only("cross_subject_fusion"))
    assert simulator.possible("infarct") == {"hybrid_injection": 0.5, "synthetic_anatomy": 0.5}


def test_one_patient_cannot_lend_to_itself():
    masks, _ = draw_masks()
    simulator = MaskSimulator(masks[3:6], ["A"] * 3, EMIDEC_LABELS, SimulatorConfig())
    assert "cross_subject_fusion" not in simulator.possible("infarct")


def test_a_label_set_without_lesions_gives_masks_without():
    masks, patients = draw_masks(lesions=False)
    simulator = MaskSimulator(masks, patients, CINE_LABELS, SimulatorConfig())
    assert simulator.possible("infarct") == {}
    assert simulator.simulate("no_infarct", random_generator(0, "cine")).mask.max() == 2


def test_an_apex_serves_as_background_of_masks_without_infarct_only():
    apex = np.minimum(ring(inner=6, wall=3), 1) * np.uint8(2)
    masks = np.stack([apex, np.zeros_like(apex), ring()])
    simulator = MaskSimulator(masks, ["A", "A", "B"], EMIDEC_LABELS, SimulatorConfig())
    assert simulator.rows == (0, 2)
    assert simulator.bearers == (2,)
    for index in range(5):
        assert simulator.simulate("infarct", random_generator(0, "apex", index)).row == 2
    rows = {simulator.simulate("no_infarct", random_generator(0, "apex", index)).row for index in range(20)}
    assert rows == {0, 2}


def test_no_ventricle_at_all_is_an_error():
    with pytest.raises(InputError, match="none of 2 training slices shows a ventricle"):
        MaskSimulator(np.zeros((2, 32, 32), np.uint8), ["A", "B"], EMIDEC_LABELS, SimulatorConfig())


def test_impossible_limits_say_why():
    masks, patients = draw_masks()
    config = only("hybrid_injection", infarct_limits=(0.0, 0.001))
    simulator = MaskSimulator(masks, patients, EMIDEC_LABELS, config)
    with pytest.raises(InputError, match=r"no infarct mask could be simulated .* no such lesion grew"):
        simulator.simulate("infarct", random_generator(0, "x"))


def test_lesions_follow_the_training_lesions():
    masks, patients = draw_masks(24)
    simulator = MaskSimulator(masks, patients, EMIDEC_LABELS, SimulatorConfig())
    real = [r.infarct_share for r in simulator.lesions.records]
    rng = random_generator(0, "plans")
    drawn = [simulator.lesions.draw(False, rng).infarct_share for _ in range(300)]
    assert np.mean(drawn) == pytest.approx(np.mean(real), abs=0.03)
    assert np.std(drawn) < 2 * np.std(real) + 0.03


def test_few_training_lesions_fall_back_on_physiology_within_the_limits():
    model = LesionModel.fit([], SimulatorConfig())
    rng = random_generator(0, "defaults")
    plans = [model.draw(True, rng) for _ in range(100)]
    assert all(0.1 <= plan.infarct_share <= 0.5 and 0.1 <= plan.no_reflow_share <= 0.4 for plan in plans)


@pytest.mark.parametrize(
    "values",
    [
        {"shares": dict.fromkeys(STRATEGIES, 0.0)},
        {"infarct_limits": (0.5, 0.1)},
        {"unknown": 1},
        {"attempts": 0},
    ],
)
def test_wrong_settings_are_refused(values):
    with pytest.raises(ValueError, match=r"share|first must be below|not permitted|greater than"):
        SimulatorConfig(**values)


def test_real_masks_give_masks_that_obey_anatomy():
    import nibabel

    folder = real_data("emidec_roi")
    masks, patients = [], []
    for path in sorted(folder.glob("Case_P*/Contours/*.nii.gz"))[:6]:
        volume = np.asarray(nibabel.load(path).dataobj).astype(np.uint8)
        masks.extend(np.moveaxis(volume, 2, 0))
        patients.extend([path.parent.parent.name] * volume.shape[2])
    simulator = MaskSimulator(np.stack(masks), patients, EMIDEC_LABELS, SimulatorConfig())
    for index in range(20):
        draft = simulator.simulate("no_reflow", random_generator(0, "real", index))
        anatomy, before = read_anatomy(draft.mask), simulator.anatomies[draft.row]
        assert anatomy.closed or not before.closed
        assert (draft.mask == Tissue.NO_REFLOW).any()
