from typing import Literal, get_args, get_origin

import pytest
from pydantic import ValidationError

from gan.training.config import PRESETS, TRIAL_PRESETS, Pix2PixConfig

SIZE = 128


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_validates_and_fits_the_region(name):
    config = PRESETS[name]
    assert Pix2PixConfig.model_validate_json(config.model_dump_json()) == config
    assert SIZE % 2 ** len(config.widths) == 0


def test_published_is_the_tenth_trial():
    assert PRESETS["published"] == TRIAL_PRESETS["trial_10"]
    assert list(TRIAL_PRESETS) == [f"trial_{number}" for number in range(1, 11)]


def test_trials_are_what_the_table_tells():
    trials = list(TRIAL_PRESETS.values())
    assert [trial.l1_weight for trial in trials[2:]] == [60, 70, 80, 90, 110, 70, 100, 100]
    assert [number for number, trial in enumerate(trials, 1) if trial.output == "sigmoid"] == [2, 3, 5]
    assert [len(trial.widths) for trial in trials] == [7] * 7 + [6] * 3
    assert [trial.tissue_weights["no_reflow"] for trial in trials] == [1, 1] + [90] * 8
    assert [number for number, trial in enumerate(trials, 1) if not trial.discriminator_sees_mask] == [6]
    assert [number for number, trial in enumerate(trials, 1) if trial.background_noise] == [5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop_px": 50}, "crop_px 50 cannot be halved 5 times; use a multiple of 32, or 0"),
        ({"crop_px": 96, "context": False}, "crop_px needs context"),
        ({"decoder_noise": True, "noise_channels": 0}, "decoder_noise needs noise_channels"),
        ({"fine_discriminator_widths": (8,)}, "at least two stages, or none"),
        ({"widths": (8,)}, "at least two stages each"),
        ({"colour": 1}, "Extra inputs are not permitted"),
    ],
)
def test_what_does_not_fit_together_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        Pix2PixConfig(**values)


def test_every_choice_of_a_word_is_made_by_a_preset_or_a_trial():
    """What nobody chooses is code that nobody runs."""
    for name, field in Pix2PixConfig.model_fields.items():
        if get_origin(field.annotation) is Literal:
            assert {getattr(preset, name) for preset in PRESETS.values()} == set(get_args(field.annotation)), name


def test_every_option_is_turned_by_a_preset_or_set_in_a_training():
    left_alone = {
        name
        for name in Pix2PixConfig.model_fields
        if all(getattr(preset, name) == getattr(Pix2PixConfig(), name) for preset in PRESETS.values())
    }
    assert left_alone == {"learning_rate", "validation_slices"}
