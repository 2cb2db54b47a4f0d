"""What the two published sources report, with their citations: the only figures here that this project did not measure.

A field that a source does not state is said so in words, never filled in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class PublishedStudy:
    """A published study: its results in one line, and how it was done, by aspect."""

    short: str
    citation: str
    result: str
    protocol: Mapping[str, str]


ASPECTS = (
    "data",
    "patients",
    "split",
    "test slices",
    "image",
    "training slices",
    "trainings",
    "checkpoint",
    "score",
    "uncertainty",
)

SYNTHESIS_STUDY = PublishedStudy(
    short="infarct-synthesis study",
    citation="Infarct synthesis with Pix2Pix, segmentation with Attention Res-UNet, EMIDEC; Cairo University 2025",
    result="Mean Dice of the four tissues 0.7268 with real slices only, 0.7752 with real and synthetic slices.",
    protocol=MappingProxyType(
        {
            "data": "EMIDEC (late gadolinium enhancement)",
            "patients": "100 public patients",
            "split": "one split by patient: 85 training, 15 test patients",
            "test slices": "98",
            "image": "128 × 128 region around the left ventricle, 1 × 1 mm, 2nd to 98th percentile",
            "training slices": "10,000 augmented; 5,000 augmented and 5,000 synthetic",
            "trainings": "one of each arm",
            "checkpoint": "of the generator: lowest training loss; of the segmenter: not stated",
            "score": "Dice; the rule for a tissue that is absent is not stated",
            "uncertainty": "none given",
        }
    ),
)

# Dice on the test patients (real only, real + GAN); results table of the study.
SYNTHESIS_DICE: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "cavity": (0.9350, 0.9365),
        "normal_myocardium": (0.8222, 0.8319),
        "infarct": (0.6126, 0.6651),
        "no_reflow": (0.5376, 0.6676),
    }
)
SYNTHESIS_MEAN = (0.7268, 0.7752)

HALSR_STUDY = PublishedStudy(
    short="HALSR-Net",
    citation="Fakhfakh, Sarry and Clarysse, HALSR-Net, Computerized Medical Imaging and Graphics 123, 2025, 102546",
    result="“Up to 98 % accuracy and F1-score” for cavity and myocardium on cine; no infarct, no synthetic data.",
    protocol=MappingProxyType(
        {
            "data": "cine: in-house, ACDC, LVQuan19",
            "patients": "public parts: ACDC 100, LVQuan19 56; the in-house number is not known here",
            "split": "by slice in the published code, so that a patient may be on both sides",
            "test slices": "not known here",
            "image": "256 × 256 in the published code, which lacks the first stage that finds the ventricle",
            "training slices": "real slices only",
            "trainings": "up to 300 epochs, batch 32; their number is not known here",
            "checkpoint": "early stopping on the set that is also scored",
            "score": "accuracy and F1-score",
            "uncertainty": "none given",
        }
    ),
)
