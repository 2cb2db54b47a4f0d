"""Whether a new model takes the champion's place: the paired comparison of the two arms, asked of two models.

A champion is displaced only by evidence: better in at least one tissue and worse in none, on the same test
patients and at least two shared seeds, since one training cannot tell a better model from a luckier seed.
A tissue with too few patients for a verdict cannot speak for a candidate, but against it: a collapse there is a veto.
What does not live here: where champions are kept and how MLflow hears of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from common.pages.words import words
from segmentation.comparison.arms import Comparison, ScoredTable, compare_arms
from segmentation.comparison.statistics import BETTER, TOO_FEW, WORSE, Estimate
from segmentation.model_kind import REAL_ONLY, REAL_PLUS_GAN
from segmentation.scoring.scores import patient_rows

RULE = "positive"
FIRST = "the first model of its kind"
SAME = "the champion itself"
FEWEST_SEEDS = 2
NOT_ENOUGH_SEEDS = "not enough seeds: the first model stays"
COLLAPSED_SHARE = 0.5  # of the champion's Dice: less is a collapse, whatever the number of patients


@dataclass(frozen=True)
class TissueJudgement:
    """One tissue's Dice (rule `positive`, mean over seeds) of a candidate beside the champion's."""

    tissue: str
    candidate: float
    champion: Estimate
    difference: Estimate
    pairs: int
    verdict: str

    @property
    def fell(self) -> bool:
        """Whether the candidate lies below the lower end of the champion's own interval."""
        return self.candidate < self.champion.low

    @property
    def vetoes(self) -> bool:
        """Whether too few patients for a verdict still show a collapse.

        The candidate fell below the champion's interval, or below half of its Dice: the interval of a handful of
        patients is wide, and one patient has none.
        """
        collapsed = self.candidate < COLLAPSED_SHARE * self.champion.value
        return self.verdict == TOO_FEW and (self.fell or collapsed)

    @property
    def both(self) -> str:
        """Both Dice, in words."""
        limit = f", from {self.champion.low:.3f}" if self.champion.low == self.champion.low else ""
        pairs = f"{self.pairs} {'pair' if self.pairs == 1 else 'pairs'}"
        return f"{words(self.tissue)} {self.candidate:.3f} ({pairs}; the champion's {self.champion.value:.3f}{limit})"

    def __str__(self) -> str:
        """Give the difference with its interval and verdict."""
        value, low, high = self.difference.value, self.difference.low, self.difference.high
        return f"{words(self.tissue)} {value:+.3f} ({low:+.3f} to {high:+.3f}, {self.pairs} pairs, {self.verdict})"


@dataclass(frozen=True)
class Judgement:
    """Whether a candidate becomes the champion, and why; `tissues` is empty where nothing could be compared."""

    promoted: bool
    reason: str
    tissues: tuple[TissueJudgement, ...] = field(default=())


def judge_candidate(candidate: ScoredTable, champion: ScoredTable | None) -> Judgement:
    """Decide whether a candidate takes the champion's place.

    Args:
        candidate: Scores of one model, all its seeds; the manifest names what both must share (the split).
        champion: Scores of the present champion, None where there is none.

    Returns:
        Promoted as the first, or where a tissue is better, none is worse and none vetoes; never across different
        splits, nor with one seed.
    """
    if champion is None:
        return Judgement(promoted=True, reason=FIRST)
    if obstacle := _obstacle(candidate, champion):
        return Judgement(promoted=False, reason=f"not compared: {obstacle}")
    tissues = _judge_tissues(compare_arms([_as_arm(champion, REAL_ONLY), _as_arm(candidate, REAL_PLUS_GAN)]))
    if len(_shared_seeds(candidate, champion)) < FEWEST_SEEDS:
        return Judgement(promoted=False, reason=f"{NOT_ENOUGH_SEEDS}; {_told(tissues)}", tissues=tissues)
    promoted, reason = _weigh(tissues)
    return Judgement(promoted, reason, tissues)


def _weigh(tissues: Sequence[TissueJudgement]) -> tuple[bool, str]:
    """Return whether the tissues together promote, and why."""
    if worse := [tissue for tissue in tissues if tissue.verdict.startswith(WORSE)]:
        return False, f"worse than the champion: {_told(worse)}"
    if vetoes := [tissue for tissue in tissues if tissue.vetoes]:
        return False, f"fell too far, though in too few patients for a verdict: {', '.join(one.both for one in vetoes)}"
    if better := [tissue for tissue in tissues if tissue.verdict.startswith(BETTER)]:
        return True, f"better than the champion: {_told(better)}; worse in no tissue"
    return False, f"no evidence that it is better: {_told(tissues)}"


def _obstacle(candidate: ScoredTable, champion: ScoredTable) -> str:
    """Say why two models cannot be compared, nothing where they can."""
    for key in sorted({*candidate.manifest, *champion.manifest}):
        ours, theirs = candidate.manifest.get(key, "missing"), champion.manifest.get(key, "missing")
        if ours != theirs:
            return f"{key} is {ours}, the champion's was {theirs}"
    if set(patient_rows(candidate.scores)["case_id"]) != set(patient_rows(champion.scores)["case_id"]):
        return "they were tested on different patients"
    if not _shared_seeds(candidate, champion):
        return "they share no seed"
    return ""


def _shared_seeds(candidate: ScoredTable, champion: ScoredTable) -> set[int]:
    return set(candidate.scores["seed"].dropna()) & set(champion.scores["seed"].dropna())


def _as_arm(table: ScoredTable, arm: str) -> ScoredTable:
    """Let a model take the place of an arm: the same statistics answer both questions."""
    return ScoredTable(table.scores.assign(training_set=arm), table.manifest)


def _judge_tissues(compared: Comparison) -> tuple[TissueJudgement, ...]:
    of_rule = compared.differences[compared.differences["rule"] == RULE]
    return tuple(
        TissueJudgement(
            tissue=str(row["tissue"]),
            candidate=float(row[REAL_PLUS_GAN]),
            champion=_champion_interval(compared.summary, str(row["tissue"])),
            difference=Estimate(float(row["difference"]), float(row["low"]), float(row["high"])),
            pairs=int(row["pairs"]),
            verdict=str(row["verdict"]),
        )
        for row in of_rule.to_dict("records")
    )


def _champion_interval(summary: pd.DataFrame, tissue: str) -> Estimate:
    chosen = (summary["training_set"] == REAL_ONLY) & (summary["rule"] == RULE) & (summary["tissue"] == tissue)
    row = summary[chosen].iloc[0]
    return Estimate(float(row["mean"]), float(row["low"]), float(row["high"]))


def _told(tissues: Sequence[TissueJudgement]) -> str:
    return ", ".join(map(str, tissues)) or "no tissue could be compared"
