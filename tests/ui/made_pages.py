"""Every HTML page of the product, made in seconds from toy data: what `tests/ui/test_pages.py` looks at."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from common.pages.kit import svg_bytes, svg_style
from gan.quality.page import write_quality_page
from gan.quality.proof import assess_quality
from imaging.dataset_card.page import write_dataset_card
from imaging.labels import EMIDEC_LABELS
from imaging.phantom import PhantomConfig, read_phantom
from imaging.slices.regions import RegionConfig
from imaging.studies.archive import StudyArchive
from imaging.studies.archive_writer import write_studies
from imaging.studies.study import RejectedStudy
from pipeline.commands.compare import compare
from pipeline.commands.experiment.report import Block, render_report
from pipeline.commands.predict.predict import PredictOptions, predict
from pipeline.commands.trials import write_table
from segmentation.report import write_report
from tests.gan.quality_material import instruments, material, segment_by_shade
from tests.imaging.fake_emidec import CASES, image_of, label_map, write_nifti
from tests.pipeline.toy_models import CentralBox, write_member
from tests.segmentation.report.report_material import material as report_material

Write = Callable[[Path], Path]
VERDICTS = [
    ("adherence", True, "A segmenter trained on real slices only finds the tissues where the mask put them."),
    ("variety", False, "Synthetic ventricles differ from one another, relative to how much real patients do."),
]


def report(folder: Path) -> Path:
    """Two networks, one of which has no evidence beside an interval that leaves out zero."""
    made = report_material()
    rows = made.comparison.differences
    other = rows.assign(network="halsr_net", verdict="no evidence", p_holm=0.08)
    write_report(
        replace(made, comparison=replace(made.comparison, differences=pd.concat([rows, other], ignore_index=True))),
        folder / "report.html",
    )
    return folder / "report.html"


def quality(folder: Path) -> Path:
    made = material(folder)
    measured = instruments(made.validation, segment_from_synthetic=segment_by_shade)
    write_quality_page(assess_quality(made, measured, most_images=40), folder / "quality.html", "phantom", VERDICTS)
    return folder / "quality.html"


def card(folder: Path) -> Path:
    items = [*read_phantom(PhantomConfig(patients=8)), RejectedStudy("Case_P901", "", "its mask holds the value 9")]
    write_studies(folder / "studies.h5", items, EMIDEC_LABELS, "phantom", minimum_patients=1)
    write_dataset_card(StudyArchive.open(folder / "studies.h5"), folder / "card.html", RegionConfig())
    return folder / "card.html"


def prediction(folder: Path) -> Path:
    """Two studies and one that cannot be read; an untrained network draws what is flagged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segmentation.localiser.box_prediction.load_localiser", CentralBox)
        write_member(folder / "home", 0, 0)
        write_member(folder / "home", 0, 1)
        for name in ("Patient 7, before treatment", "a-very-long-name-without-any-space-1234567890"):
            write_nifti(folder / "in" / f"{name}.nii.gz", image_of(label_map("Case_P002")))
        (folder / "in" / "broken.nii.gz").write_bytes(b"no image")
        options = PredictOptions("emidec/tiny/attention_res_unet/real_only", folder / "out")
        predict(folder / "home", [folder / "in"], options)
    return folder / "out" / "index.html"


def experiment(folder: Path) -> Path:
    names = ["arm", "against", "tissue", "difference", "p (Holm)", "verdict"]
    rows = [
        [f"arm {n}", "real only", "no-reflow", "+0.031 (−0.012 to +0.074)", "0.412", "no evidence"] for n in range(6)
    ]
    with rc_context(svg_style()):
        figure = Figure(figsize=(10, 3))
        figure.subplots().plot([0, 0.5, 1], [0.4, 0.45, 0.3], label="all real patients")
        svg = svg_bytes(figure).decode()
    blocks = [Block("Differences, positive rule", names, rows), Block("Differences, pooled rule", names, rows)]
    page = folder / "report.html"
    notes = ["Each arm is measured by real only of equal steps.", "Dots are folds."]
    page.write_text(
        render_report("screening: phantom", "What helps?", ["arm 1"], notes, blocks, [svg]), encoding="utf-8"
    )
    return page


def trials(folder: Path) -> Path:
    names = ["trial_1", "improved_context"]
    for name in names:
        pictures = folder / name / "figures"
        pictures.mkdir(parents=True)
        noise = np.random.default_rng(0).integers(0, 255, (128, 512), np.uint8)
        write_png(pictures / "pairs.png", noise)
    measures = {f"measure_{number}": [0.123, 4.567] for number in range(12)}
    write_table(pd.DataFrame({"trial": names, "change": ["the source's own", "context kept"], **measures}), folder)
    return folder / "trials.html"


def folders(folder: Path) -> Path:
    """Two folders of label maps beside a third, by names of which one is long."""
    arms = ("nnU-Net, real slices only", "nnU-Net_on_real_slices_and_those_of_the_generator", "ours")
    for place in ("reference", *arms):
        for number, case_id in enumerate(CASES):
            moved = np.roll(label_map(case_id), (place != "reference") * (number % 3), axis=0)
            write_nifti(folder / place / f"{case_id}.nii.gz", moved)
    compare(folder / "reference", [folder / arm for arm in arms], (), "emidec", folder / "out")
    return folder / "out" / "report.html"


def write_png(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)


PAGES: Mapping[str, Write] = {
    "report": report,
    "folders": folders,
    "quality": quality,
    "card": card,
    "prediction": prediction,
    "experiment": experiment,
    "trials": trials,
}
