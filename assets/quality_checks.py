"""What synthetic slices must fulfil before anything is trained on them, and what is only told."""

from typing import TYPE_CHECKING

from assets.checks import beats
from pipeline.outcome import Check

if TYPE_CHECKING:
    from gan.quality import QualityReport
    from pipeline.settings import QualitySettings, Settings


def quality_checks(report: "QualityReport", settings: "Settings") -> tuple[Check, ...]:
    """Return the checks of a report; `adherence`, `no_copies` and `variety` block."""
    limits = settings.quality
    return (
        _adherence(report, limits),
        _no_copies(report, limits),
        _variety(report, limits),
        *_against_mean_paint(report),
    )


def _adherence(report: "QualityReport", limits: "QualitySettings") -> Check:
    minimum = {
        "cavity": limits.minimum_adherence_cavity,
        "normal_myocardium": limits.minimum_adherence_myocardium,
    }
    found = {tissue: report.value(f"adherence/{tissue}", "ventricle", "synthetic") for tissue in minimum}
    figures = {f"{tissue}/dice": dice for tissue, dice in found.items()}
    figures |= {f"{tissue}/minimum": dice for tissue, dice in minimum.items()}
    return Check(
        "adherence",
        all(found[tissue] >= minimum[tissue] for tissue in minimum),
        figures,
        "A segmenter trained on real slices only finds the tissues where the mask put them.",
    )


def _no_copies(report: "QualityReport", limits: "QualitySettings") -> Check:
    """Pixels decide: pooled features see the shape too, which a patient's own anatomy shares by design."""
    shares = report.table[report.table["measure"].str.startswith("copies/")]
    figures = {
        f"{row['features']}/{row['subject']}/{row['measure'].removeprefix('copies/')}": float(row["value"])
        for row in shares.to_dict("records")
    }
    found = report.value("copies/copied", "ventricle", "synthetic")
    return Check(
        "no_copies",
        found <= limits.maximum_copied_share,
        {"copied_share": found, "maximum": limits.maximum_copied_share, **figures},
        "Few synthetic ventricles are as near to one training patient, and to no other, as 1 % of real patients are.",
    )


def _variety(report: "QualityReport", limits: "QualitySettings") -> Check:
    found = report.value("variety_ratio", "ventricle", "synthetic")
    figures = {
        "different_masks": found,
        "minimum": limits.minimum_variety,
        "same_mask": report.value("variety_ratio", "ventricle", "same_mask"),
    }
    return Check(
        "variety",
        found >= limits.minimum_variety,
        figures,
        "Synthetic ventricles differ from one another, relative to how much real patients do.",
    )


def _against_mean_paint(report: "QualityReport") -> tuple[Check, Check]:
    """Return the two checks inside the ventricle: outside it, with context, both show the same real background.

    Neither is SSIM or PSNR, which charge for grain other than the real slice's and so prefer a painting without any.
    """
    measure, name = _likeness(report)
    painted = "validation slices, against tissues painted with their mean."
    return (
        beats(
            "beats_mean_paint_frechet",
            report.value("frechet", "ventricle", "pix2pix"),
            report.value("frechet", "ventricle", "mean_paint"),
            f"Fréchet distance inside the ventricle to real {painted}",
            higher_is_better=False,
        ),
        beats(
            "beats_mean_paint_likeness",
            report.value(measure, "ventricle", "pix2pix"),
            report.value(measure, "ventricle", "mean_paint"),
            f"{name} inside the ventricle, {painted}",
            higher_is_better=False,
        ),
    )


def _likeness(report: "QualityReport") -> tuple[str, str]:
    """Return the measure of likeness that decides, and its name: LPIPS where a network's weights are given."""
    lpips = report.rows("lpips", "ventricle", "pix2pix")
    if lpips.empty:
        return "patches", "Distance of patches (sliced Wasserstein)"
    return "lpips", f"{lpips['features'].iloc[0]} to the real slice of the same mask"
