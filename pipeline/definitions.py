"""What Dagster loads: every asset, job, schedule, sensor and resource.

No PyTorch, MLflow or albumentations is imported here: every step process imports this module again.
"""

import os
from pathlib import Path

import dagster as dg

from assets import (
    champion,
    comparison,
    localiser,
    quality,
    scores,
    segmenters,
    slices,
    studies,
    synthesis,
    training_sets,
)
from pipeline.forge import Forge
from pipeline.jobs import JOBS, cine
from pipeline.nightly import nightly
from pipeline.sensors import new_studies, report_failures, report_regressions

forge = Forge(
    source=os.environ.get("SCARFORGE_SOURCE", "phantom"),
    root=str(Path(os.environ["SCARFORGE_ROOT"]).absolute()) if os.environ.get("SCARFORGE_ROOT") else "",
    profile=os.environ.get("SCARFORGE_PROFILE", "demo"),
    home=os.environ.get("SCARFORGE_HOME", "workspace"),
)

defs = dg.Definitions(
    assets=dg.load_assets_from_modules(
        [studies, localiser, slices, synthesis, quality, training_sets, segmenters, scores, comparison, champion]
    ),
    jobs=[*JOBS.values(), cine],
    schedules=[nightly],
    sensors=[new_studies, report_failures, report_regressions],
    resources={"forge": forge},
    # Steps beside each other only where a core is idle: trainings wait for each other in the pool "gpu".
    executor=dg.multiprocess_executor.configured({"max_concurrent": 2}),
)
