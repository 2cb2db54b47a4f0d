"""What is told of an experiment: how far it is, one tidy table, and a report of its arms, each against real only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context

from common.errors import InputError
from common.files import read_json, write_atomically
from common.pages.kit import Picture, data_address, render, svg_bytes, svg_style, table
from common.pages.words import ABSENT, interval, number, words
from common.progress import say
from common.tables import read_csv, write_csv
from engine.locks import held
from engine.record import is_finished
from engine.run_tags import RunIdentity
from engine.tracking.tracker import Tracker
from imaging.studies.leakage import donors_note
from pipeline.commands.experiment.cells import DONE, Bench, Cell, Experiment, told
from pipeline.commands.experiment.plan import ALL, Plan, read_plan
from segmentation.comparison.arms import compare_each, interval_notes, summarise
from segmentation.comparison.text import markdown_table
from segmentation.model_kind import REAL_PLUS_GAN
from segmentation.report.charts import curve_figure, gains_figure
from segmentation.scoring.scores import SCORE_COLUMNS

Pair = tuple[Bench, Cell]

_ALT = "The figures are in the tables below"
_TEXTS = ("arm", "against", "tissue", "verdict")
RULES_SHOWN = ("positive", "pooled")
_VALIDATED = (
    "Validation patients are scored, who also chose each training's checkpoint, in all arms alike: their Dice is too "
    "high, the differences decide which arms the test patients are scored for. A patient who validates in several "
    "folds counts in each, by another training set."
)
_FEWER = (
    "Fewer patients: generator, mask simulator, localiser and segmenter of such an arm are trained on these alone, 10 "
    "are among 20, and groups keep their shares."
)


def conduct(plan: Plan, home: Path, only: Sequence[str] = (), folds: Sequence[int] = ()) -> str:
    """Train and score every cell of a plan that is not done, write the report after each fold, and return it.

    Args:
        plan: What is trained.
        home: The workspace.
        only: Names of arms; empty for all.
        folds: Of the plan's; empty for all.

    Raises:
        InputError: The plan is wrong, or cells could not be made, when all others are.
    """
    experiment = Experiment.of(plan, home)
    experiment.check(only, folds)
    say(estimate(experiment))
    experiment.run(only, folds, write_report)
    track_report(experiment)
    text = (experiment.folder / "report.md").read_text(encoding="utf-8")
    return f"{text}\n{chr(10).join(status_lines(experiment))}\n\nReport, tables and arms: {experiment.folder}"


def tell_status(plan: Path | None, home: Path) -> str:
    """Return how far a plan is; without one, how far each plan of the workspace is."""
    if plan is not None:
        return "\n".join(status_lines(Experiment.of(read_plan(plan), home)))
    plans = sorted(home.absolute().glob("*/*/experiments/*/plan.yaml"))
    if not plans:
        raise InputError(f"{home} holds no experiment; start one with `scarforge experiment plan.yaml`")
    return "\n\n".join(f"{path}\n{estimate(Experiment.of(read_plan(path), home))}" for path in plans)


def estimate(experiment: Experiment) -> str:
    """Say how many cells a plan has, how many are done, and how long the rest will take by those that are."""
    plan, cells = experiment.plan, list(experiment.cells())
    done = [bench.done(cell) for bench, cell in cells]
    counts = {"arms": experiment.arms, "networks": plan.networks, "folds": plan.folds, "seeds": plan.seeds}
    product = " x ".join(f"{len(values)} {name}" for name, values in counts.items())
    lines = [f"{plan.name}: {product} x {len(plan.patients)} numbers of patients: {len(cells)} cells, {sum(done)} done"]
    if added := [arm.name for arm in experiment.arms.values() if arm.added]:
        lines.append(f"  added, since other arms are measured by them: {', '.join(added)}")
    return "\n".join([*lines, f"  {time_left(cells, done)}"])


def time_left(cells: Sequence[Pair], done: Sequence[bool]) -> str:
    """Say how long trainings took, and how long those that are left will take by that."""
    waiting = [pair for pair, is_done in zip(cells, done, strict=True) if not is_done]
    if not waiting:
        return "nothing is left to train"
    of_step = [
        _minutes(bench.place(bench.model(cell), cell.seed)) / _steps(bench, cell)
        for (bench, cell), is_done in zip(cells, done, strict=True)
        if is_done
    ]
    step = _mean(of_step)
    with_gan = [bench for bench, _ in cells if bench.arm.training_set == REAL_PLUS_GAN and bench.settings.generates]
    drawing = {_generator(bench): bench for bench in with_gan}
    places = [bench.place("pix2pix", bench.plan.seeds[0]) for bench in drawing.values()]
    generator, missing = _mean([_minutes(place) for place in places]), [p for p in places if not is_finished(p)]
    what = f"{len(waiting)} segmenters and {len(missing)} generators at most are left to train"
    if math.isnan(step):
        return f"{what}; none is timed yet"
    minutes = sum(step * _steps(*pair) for pair in waiting) + len(missing) * np.nan_to_num(generator)
    each = "" if math.isnan(generator) else f", {generator:.1f} min a generator"
    return f"{what}: about {_duration(minutes)} ({1000 * step:.1f} min for 1,000 steps of a segmenter{each})"


def _steps(bench: Bench, cell: Cell) -> int:
    return bench.settings.training(cell.network, bench.arm.training_set).steps


def _generator(bench: Bench) -> str:
    """Return what tells a generator's training from others: arms that agree in it share it."""
    parts = {"pix2pix", "synthesis", "augment", "balance", "region", "training_slices"}
    return f"{bench.fold} {bench.patients} {bench.settings.model_dump_json(include=parts)}"


def _minutes(model: Path) -> float:
    """Return how long a finished training took by its own course; NaN where that does not tell."""
    try:
        history = read_csv(model / "history.csv")
        batch = read_json(model / "config.json")["batch"]
        rates = history[next(name for name in history.columns if name.startswith("images_per_s"))]
    except (OSError, ValueError, KeyError, StopIteration):
        return math.nan
    return float((history["step"].diff().fillna(history["step"]) * batch / rates).sum()) / 60


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _duration(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def status_lines(experiment: Experiment) -> list[str]:
    """Return the state of every cell as lines of a table, and how long the rest will take."""
    cells = list(experiment.cells())
    states = [bench.state(cell) for bench, cell in cells]
    rows: dict[tuple[str, str, str], list[str]] = {}
    for (bench, cell), state in zip(cells, states, strict=True):
        minutes = _minutes(bench.place(bench.model(cell), cell.seed)) if state == DONE else math.nan
        shown = state if math.isnan(minutes) else f"{state}, {minutes:.1f} min"
        rows.setdefault((bench.name, cell.network, str(cell.seed)), []).append(shown)
    headings = ["arm", "network", "seed", *(f"fold {fold}" for fold in experiment.plan.folds)]
    table = markdown_table(headings, [[*names, *of_folds] for names, of_folds in rows.items()])
    done = [state == DONE for state in states]
    return [table, "", f"{sum(done)} of {len(done)} cells are done; {time_left(cells, done)}"]


@dataclass(frozen=True)
class Block:
    """One table of the page: a heading, the columns' names and the rows' texts."""

    title: str
    names: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Results:
    """What the finished cells of an experiment say.

    Attributes:
        experiment: The plan in its workspace.
        done: Its finished cells.
        of: The number of its cells.
        scores: The tidy table: columns of scores, `arm` and `patients`.
    """

    experiment: Experiment
    done: Sequence[Pair]
    of: int
    scores: pd.DataFrame

    @classmethod
    def gather(cls, experiment: Experiment) -> "Results | None":
        """Read the finished cells; None where there are none."""
        cells = list(experiment.cells())
        done = [(bench, cell) for bench, cell in cells if bench.done(cell)]
        tables = [bench.table(cell) for bench, cell in done]
        return cls(experiment, done, len(cells), pd.concat(tables, ignore_index=True)) if done else None

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.experiment.plan

    @property
    def benches(self) -> dict[str, Bench]:
        """One bench of each arm and number of patients, by name."""
        return {bench.name: bench for bench, _ in self.done}

    @cached_property
    def named_apart(self) -> pd.DataFrame:
        """The scores with each arm and number of patients as a training set of its own, for the statistics.

        A patient who validates in two folds is one of each.
        """
        names = {(bench.arm.name, str(bench.patients)): name for name, bench in self.benches.items()}
        own = [names[key] for key in zip(self.scores["arm"], self.scores["patients"], strict=True)]
        table = self.scores.assign(training_set=own)[list(SCORE_COLUMNS)]
        if self.plan.scored_on == "test":
            return table
        return table.assign(case_id="fold " + table["fold"].astype(str) + " " + table["case_id"])

    @property
    def against(self) -> dict[str, str]:
        """By which arm each is measured, of the same patients, by name."""
        return {bench.name: bench.named(bench.arm.against) for bench in self.benches.values() if bench.arm.against}

    @cached_property
    def compared(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Differences over all folds, and in each."""
        return compare_each(self.named_apart, self.against)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Mean Dice of each arm."""
        return summarise(self.named_apart).rename(columns={"training_set": "arm"})

    @property
    def tissues(self) -> list[str]:
        """The tissues in the order of the labels."""
        return list(self.scores.loc[self.scores["rule"] == "pooled", "tissue"].drop_duplicates())

    def validation(self, name: str, network: str) -> float:
        """Return an arm's Dice on validation patients, by which its checkpoints were chosen: mean over its cells."""
        return _mean([b.validation_dice(c) for b, c in self.done if b.name == name and c.network == network])

    def notes(self) -> list[str]:
        """Return what a reader must know."""
        differences, _ = self.compared
        found = [f"{len(self.done)} of {self.of} cells are done."] if len(self.done) < self.of else []
        found += [_VALIDATED] if self.plan.scored_on == "validation" else []
        found.append(
            "Differences are to the arm named, with the same patients, paired by patient, fold and seed; p is "
            "corrected over all arms, tissues and networks of a rule (Holm)."
        )
        found += interval_notes(differences)
        found += [_FEWER] if any(count != ALL for count in self.plan.patients) else []
        return self._unknown_donors() + found + self._unequal_steps() + self._failed_checks()

    def _unknown_donors(self) -> list[str]:
        """Say which arms were trained on slices of a folder that were made from nobody knows whom."""
        benches = {(bench.name, bench.fold): bench for bench, _ in self.done if bench.settings.from_folder}.values()
        return [
            note
            for bench in benches
            for note in donors_note(bench.synthetic_rows(), f"{bench.name}, fold {bench.fold}")
        ]

    def _unequal_steps(self) -> list[str]:
        arms, networks = self.experiment.arms, self.plan.networks
        return [
            f"{arm.name} and {arm.against}, by which it is measured, have unequally many steps: "
            f"{arm.steps(networks)} and {arms[arm.against].steps(networks)}."
            for arm in arms.values()
            if arm.against and arm.steps(networks) != arms[arm.against].steps(networks)
        ]

    def _failed_checks(self) -> list[str]:
        """Say which arms were trained on synthetic slices that failed a check."""
        benches = {(bench.name, bench.fold): bench for bench, _ in self.done}.values()
        failed = [(bench, [told(check) for check in bench.failed_checks()]) for bench in benches]
        return [
            f"{bench.name}, fold {bench.fold}, was trained on synthetic slices that fail {'; '.join(checks)}."
            for bench, checks in failed
            if checks
        ]

    def preferred(self) -> list[str]:
        """Say, for each network and number of patients, which arm the validation patients prefer."""
        lines = []
        for network in self.plan.networks:
            for patients in self.plan.patients:
                dice = {
                    b.name: self.validation(b.name, network) for b in self.benches.values() if b.patients == patients
                }
                if dice:
                    best, each = (
                        max(dice, key=lambda name: dice[name]),
                        ", ".join(f"{n} {v:.3f}" for n, v in dice.items()),
                    )
                    lines.append(f"{words(network)}, {patients} real patients: {best} (mean validation Dice: {each})")
        return lines

    def blocks(self) -> list[Block]:
        """Return the tables of the page."""
        differences, by_fold = self.compared
        found = [self._arms(), *(self._dice(rule) for rule in RULES_SHOWN)]
        if len(differences):
            found += [_differences(differences[differences["rule"] == rule], rule) for rule in RULES_SHOWN]
            found.append(_by_fold(by_fold[by_fold["rule"] == RULES_SHOWN[0]]))
        return found

    def _arms(self) -> Block:
        rows = []
        for name, bench in self.benches.items():
            counts = bench.settings.arm(bench.arm.training_set)
            own = bench.arm.overrides[len(self.plan.overrides) :]
            steps = ", ".join(str(count) for count in dict.fromkeys(bench.arm.steps(self.plan.networks)))
            against = self.against.get(name, ABSENT) + (" (added)" if bench.arm.added else "")
            slices = f"{counts['augmented_slices']} + {counts.get('synthetic_slices', 0)}"
            rows.append([name, " ".join(own) or ABSENT, slices, steps, against])
        return Block("Arms", ["arm", "settings", "real + synthetic slices", "steps", "measured by"], rows)

    def _dice(self, rule: str) -> Block:
        table = self.summary[self.summary["rule"] == rule]
        rows = []
        for (network, name), of_arm in table.groupby(["network", "arm"], sort=False):
            cells = {row["tissue"]: _interval(row["mean"], row["low"], row["high"]) for _, row in of_arm.iterrows()}
            validation = number(self.validation(str(name), str(network)), ".3f")
            rows.append([words(str(network)), str(name), validation, *(cells.get(t, ABSENT) for t in self.tissues)])
        counts = table.groupby("tissue")["patients"].max()
        shown = [f"{words(tissue)} (n = {counts.get(tissue, 0)})" for tissue in self.tissues]
        return Block(f"Dice, {rule} rule", ["network", "arm", "validation Dice", *shown], rows)


def _differences(table: pd.DataFrame, rule: str) -> Block:
    rows = [
        [
            words(row["network"]),
            row["arm"],
            row["against"],
            words(row["tissue"]),
            _interval(row["difference"], row["low"], row["high"], "+.3f"),
            number(row["p_holm"], ".3f"),
            number(row["detectable"], ".3f"),
            str(row["pairs"]),
            f"{row['folds_better']} of {row['folds']}",
            row["verdict"],
        ]
        for _, row in table.iterrows()
    ]
    names = ["network", "arm", "against", "tissue", "difference", "p (Holm)", "detectable", "pairs", "folds above 0"]
    return Block(f"Differences, {rule} rule", [*names, "verdict"], rows)


def _by_fold(table: pd.DataFrame) -> Block:
    wide = table.pivot_table(index=["network", "arm", "tissue"], columns="fold", values="difference", sort=False)
    rows = [
        [words(network), arm, words(tissue), *(number(value, "+.3f") for value in values)]
        for (network, arm, tissue), values in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return Block(
        "Differences in each fold, positive rule",
        ["network", "arm", "tissue", *(f"fold {f}" for f in wide.columns)],
        rows,
    )


def write_report(experiment: Experiment) -> None:
    """Write the tidy table of scores, summary, differences, figures, and the report as Markdown and one page."""
    with held(experiment.folder / ".report.lock", "another process that writes the report"):
        results = Results.gather(experiment)
        if results is None:
            return
        differences, by_fold = results.compared
        tables = {"scores": results.scores, "summary": results.summary, "differences": differences, "folds": by_fold}
        for name, table in tables.items():
            write_atomically(experiment.folder / f"{name}.csv", partial(write_csv, table))
        texts = {"report.md": _markdown(results), "report.html": _page(results), **_figures(results)}
        for name, text in texts.items():
            write_atomically(experiment.folder / name, partial(_write, text))


def track_report(experiment: Experiment) -> None:
    """Record the report as an MLflow run, its differences as metrics."""
    plan = experiment.plan
    tags = {"stage": "experiment", "network": "all", "training_set": "all", "experiment": plan.name}
    params = plan.model_dump(mode="json", by_alias=True, exclude={"arms"})
    run = RunIdentity("experiment", None, None, f"{plan.source}/{plan.profile}/{plan.name}")
    told = experiment.benches()[0].forge().told(run, f"experiment {plan.name}", tags, params)
    with Tracker.of(told) as tracker:
        table = read_csv(experiment.folder / "differences.csv")
        rows = table[["network", "arm", "rule", "tissue", "difference"]].itertuples(index=False, name=None)
        found = {f"difference/{n}/{a.replace(', ', '/')}/{r}/{t}": d for n, a, r, t, d in rows if math.isfinite(d)}
        tracker.final(found)
        for path in sorted(experiment.folder.glob("*.*")):
            if path.suffix in (".csv", ".md", ".html", ".svg", ".yaml"):
                tracker.artifact(path)


def _markdown(results: Results) -> str:
    parts = [f"# {_title(results.plan)}", *filter(None, [results.plan.about]), *results.notes()]
    parts += ["Preferred on validation patients: " + "; ".join(results.preferred()) + "."]
    for block in results.blocks():
        parts += [f"## {block.title}", markdown_table(block.names, block.rows)]
    return "\n\n".join(parts) + "\n"


def render_report(
    title: str, about: str, preferred: Sequence[str], notes: Sequence[str], blocks: Sequence[Block], svgs: Sequence[str]
) -> str:
    """Return the report as one page: what is preferred, the drawings, the tables, and how to read them."""
    return render(
        "pipeline.commands.experiment",
        "experiment.html.j2",
        title=title,
        about=about,
        preferred=preferred,
        notes=notes,
        tables=[table(block.title, block.names, block.rows, _TEXTS) for block in blocks],
        figures=[Picture(data_address(svg.encode(), "image/svg+xml"), _ALT) for svg in svgs],
    )


def _page(results: Results) -> str:
    plan, svgs = results.plan, list(_figures(results).values())
    return render_report(_title(plan), plan.about, results.preferred(), results.notes(), results.blocks(), svgs)


def _title(plan: Plan) -> str:
    folds = ", ".join(map(str, plan.folds))
    return f"{plan.name}: {plan.source}, {plan.profile}, {plan.scored_on} patients of folds {folds}"


def _figures(results: Results) -> dict[str, str]:
    """Return the drawings as SVG, by file name."""
    found, (differences, by_fold) = {}, results.compared
    with rc_context(svg_style()):
        if len(differences):
            found["differences.svg"] = svg_bytes(gains_figure(differences, by_fold)).decode()
        if results.plan.curve:
            arms, patients = results.summary["arm"], f"Dice, {results.plan.scored_on} patients"
            shares = [results.benches[name].arm.share for name in arms]
            lines = [f"{results.benches[name].patients} real patients" for name in arms]
            drawn = curve_figure(results.summary.assign(share=shares, line=lines), patients)
            found["curve.svg"] = svg_bytes(drawn).decode()
    return found


def _interval(value: float, low: float, high: float, form: str = ".3f") -> str:
    between = interval(low, high, form)
    return number(value, form) + ("" if between == ABSENT else f" ({between})")


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
