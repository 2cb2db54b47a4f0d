import pytest

from imaging.errors import InputError
from pipeline.settings import load_settings, profile_names


@pytest.mark.parametrize("profile", profile_names())
def test_every_profile_is_valid(profile):
    settings = load_settings(profile)
    assert settings.profile == profile
    assert settings.description


def test_both_networks_of_a_profile_are_the_networks_they_are_named_for():
    for profile in profile_names():
        settings = load_settings(profile)
        for network in ("attention_res_unet", "halsr_net"):
            assert settings.network(network).network.name == network


def test_the_paper_profile_has_the_counts_of_the_source():
    settings = load_settings("paper")
    assert settings.training_slices == 10_000
    assert settings.synthetic_slices == 5_000
    assert (settings.balance.infarct_share, settings.balance.no_reflow_share) == (0.5, 0.46)


def test_an_override_is_laid_over_the_profile():
    settings = load_settings("demo", ["pix2pix.steps=77", "halsr_net.batch=4"])
    assert settings.pix2pix.steps == 77
    assert settings.halsr_net.batch == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pix2pix.stepps=77", r"'pix2pix.stepps'.*not permitted"),
        ("training_slices=-3", r"'training_slices'.*greater than or equal to 10, got -3"),
        ("device=tpu", r"'device'.*'auto', 'cpu' or 'cuda', got 'tpu'"),
        ("steps", r"write key=value"),
        ("pix2pix.preset=nonesuch", r"choose one of published"),
        ("training_slices.more=1", r"has no keys below it"),
    ],
)
def test_a_wrong_override_is_refused_with_field_value_and_what_is_allowed(override, message):
    with pytest.raises(InputError, match=message):
        load_settings("demo", [override])


def test_an_unknown_profile_names_those_there_are():
    with pytest.raises(InputError, match="choose one of demo, paper, quick, tiny"):
        load_settings("huge")


def test_the_digest_ignores_the_machine_and_sees_the_science():
    plain = load_settings("demo")
    assert load_settings("demo", ["device=cpu", "processes=1"]).digest == plain.digest
    assert load_settings("demo", ["pix2pix.steps=77"]).digest != plain.digest


def test_seeds_given_replace_the_profiles():
    assert load_settings("demo", seeds=[3, 4]).seeds == (3, 4)


def test_the_simulator_cuts_the_holes_that_the_generator_fills():
    settings = load_settings("tiny", ["pix2pix.hole_spread_px=5"])
    assert settings.simulator.hole_spread_px == settings.pix2pix.hole_spread_px == 5
    with pytest.raises(InputError, match=r"pix2pix.hole_spread_px 5 and simulator.hole_spread_px 2 must be equal"):
        load_settings("tiny", ["pix2pix.hole_spread_px=5", "simulator.hole_spread_px=2"])
