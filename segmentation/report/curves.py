"""The course of the trainings: loss, and Dice of the validation patients, both arms in one chart."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from imaging.svg_style import svg_style
from segmentation.report.material import Training
from segmentation.report.picture import ARM_COLOURS, WIDTH_IN, Picture, svg_picture, tidy
from segmentation.report.words import ARMS, words

_LOSS, _MEAN = "loss", "dice/mean"


def curves_picture(trainings: Sequence[Training]) -> Picture | None:
    """Draw a row for each network: training loss, then validation Dice, mean and by tissue; None without a course."""
    known = [training for training in trainings if len(training.history)]
    if not known:
        return None
    networks = list(dict.fromkeys(training.arm.network for training in known))
    columns = _columns(known)
    with mpl.rc_context(svg_style()):
        figure = Figure(figsize=(WIDTH_IN, 2.2 * len(networks) + 0.3), layout="constrained")
        panels = figure.subplots(len(networks), len(columns), squeeze=False)
        for row, network in zip(panels, networks, strict=True):
            for axes, column in zip(row, columns, strict=True):
                own = [training for training in known if training.arm.network == network]
                _draw(axes, own, column)
            row[0].set_ylabel(f"{words(network)}\ntraining loss")
            row[1].set_ylabel("validation Dice")
        for axes, column in zip(panels[0], columns, strict=True):
            axes.set_title(words(column.removeprefix("dice/")), fontsize=9)
        for axes in panels[-1]:
            axes.set_xlabel("optimiser steps")
        lines = [Line2D([], [], color=ARM_COLOURS[arm], marker=".", label=words(arm)) for arm in ARMS]
        figure.legend(handles=lines, loc="outside upper right", ncols=len(ARMS))
        return svg_picture(figure, "Training loss and validation Dice over the optimiser steps, by network and arm")


def _columns(trainings: Sequence[Training]) -> list[str]:
    """Return loss, mean Dice and the Dice of every tissue that any training was validated on."""
    names = dict.fromkeys(name for training in trainings for name in training.history.columns)
    return [_LOSS, _MEAN, *(name for name in names if name.startswith("dice/") and name != _MEAN)]


def _draw(axes: Axes, trainings: Sequence[Training], column: str) -> None:
    for training in trainings:
        if column in training.history.columns:
            history = training.history
            colour = ARM_COLOURS[training.arm.training_set]
            axes.plot(
                history["step"], history[column], color=colour, linewidth=1.2, marker=".", markersize=4, alpha=0.8
            )
    if column == _LOSS:
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    tidy(axes)
