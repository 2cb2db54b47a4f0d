import pytest

from runtime.model_card import ModelCard, StepChoice
from segmentation.prediction.post_processing import STEPS, agreed_steps, explain_steps, explain_sureness


def card(chosen=(), **mean_dice):
    dice = {"none": 0.5, "largest_piece": 0.5, "one_ring": 0.5, "no_reflow_in_infarct": 0.5, **mean_dice}
    return ModelCard(post_processing=StepChoice(chosen=list(chosen), mean_dice=dice))


def told(*cards):
    return {reason.step: (reason.applied, reason.why) for reason in explain_steps(cards)}


def test_one_network_gives_the_change_that_decided():
    reasons = told(card(["largest_piece"], largest_piece=0.52, one_ring=0.51, no_reflow_in_infarct=0.53))
    assert reasons == {
        "largest_piece": (True, "validation Dice +0.0200"),
        "one_ring": (False, "validation Dice -0.0100"),  # after the largest piece, not after none
        "no_reflow_in_infarct": (False, "validation Dice +0.0100, but a tissue fell"),
    }


def test_networks_that_disagree_are_counted():
    reasons = told(card(["one_ring"], one_ring=0.6), card(["one_ring"], one_ring=0.55), card(one_ring=0.45))
    assert reasons["one_ring"] == (False, "validation Dice -0.0500 to +0.1000, chosen by 2 of 3 networks")


@pytest.mark.parametrize("old", [ModelCard(), ModelCard(post_processing=StepChoice(chosen=[]))])
def test_models_of_before_there_was_a_choice_are_told(old):
    reasons = told(card(["one_ring"], one_ring=0.6), old)
    assert set(reasons) == set(STEPS)
    assert set(reasons.values()) == {(False, "1 of 2 networks were trained before there was a choice")}


def test_what_is_told_is_what_is_applied():
    cards = [card(STEPS), card(["one_ring"])]
    assert tuple(reason.step for reason in explain_steps(cards) if reason.applied) == agreed_steps(cards)


def scored(before, after, patients=8):
    return {"patients": patients, "before": {"official": before}, "after": {"official": after}}


def test_unsure_lesions_are_left_out_where_all_validation_patients_together_do_not_lose():
    reason = explain_sureness([scored(0.4, 0.6, patients=9), scored(0.5, 0.4, patients=3)])
    assert (reason.step, reason.applied) == ("unsure_lesions", True)
    assert reason.why == "official Dice of the lesions of 12 validation patients +0.1250"
    assert not explain_sureness([scored(0.4, 0.39)]).applied


def test_a_network_that_was_not_scored_leaves_lesions_as_they_are():
    reason = explain_sureness([scored(0.4, 0.6), None])
    assert not reason.applied
    assert reason.why == "1 of 2 networks were not scored, which tells what this does"
