import pytest

from common.errors import InputError
from engine.settings import load_settings, profile_names


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
        ("pix2pix.stepps=77", r"'pix2pix.stepps' does not exist; did you mean pix2pix.steps\?"),
        ("nonesuch=1", r"'nonesuch' does not exist; there are attention_res_unet, augment"),
        ("pix2pix=5", r"'pix2pix': has keys below it, such as pix2pix.steps=2000, got 5"),
        ("augment=5", r"'augment': input should be a valid dictionary"),
        ("profile=quick", r"chosen by --profile quick"),
        ("region.size_px=16", r"region.size_px 16 cannot be halved 5 times, as pix2pix does; use .* such as 32"),
        ("halsr_net.crop_px=90", r"halsr_net.crop_px 90 cannot be halved .* such as 96"),
        ("attention_res_unet.crop_px=256", r"crop_px 256 is larger than region.size_px"),
        ("attention_res_unet.learning_rate=.inf", r"should be a finite number, got inf"),
        ("attention_res_unet.learning_rate=.nan", r"should be a finite number, got nan"),
        ("training_slices=10000000000", r"less than or equal to 1000000, got 10000000000"),
        ("seeds=[0, -1]", r"'seeds.1': input should be greater than or equal to 0, got -1"),
        ("seeds=[0, 0]", r"each seed may be named once"),
        ("augment=[", r"--set 'augment=\[': is no YAML"),
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


def test_values_are_read_as_yaml_1_2():
    settings = load_settings("demo", ["attention_res_unet.learning_rate=1e-3", "description=no", "split_seed=010"])
    assert settings.attention_res_unet.learning_rate == 1e-3
    assert settings.description == "no"
    assert settings.split_seed == 10


def test_seeds_of_the_command_line_are_checked_like_those_of_a_profile():
    with pytest.raises(InputError, match=r"'seeds.0'.*greater than or equal to 0, got -1"):
        load_settings("demo", seeds=[-1])
    with pytest.raises(InputError, match="each seed may be named once"):
        load_settings("demo", seeds=[0, 0])


def test_an_unknown_profile_names_those_there_are():
    with pytest.raises(InputError, match="choose one of best, demo, paper, quick, tiny"):
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
