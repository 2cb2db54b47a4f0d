"""The comparison report: one HTML page that answers the question and shows what the answer rests on.

What does not live here: how scores, intervals and verdicts are formed (`segmentation.scoring`,
`segmentation.comparison`), and where the material is read from (the assets).
"""

from segmentation.report.material import ReportMaterial
from segmentation.report.pages import render_report, write_report

__all__ = ["ReportMaterial", "render_report", "write_report"]
