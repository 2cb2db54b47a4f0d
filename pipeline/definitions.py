"""What Dagster loads: every asset, job, schedule, sensor and resource.

No PyTorch, MLflow or albumentations is imported here: every step process imports this module again.
"""

import os

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
)
from engine.cluster.executor import chosen_executor, steps_of_pool
from engine.forge import Forge
from engine.run_config import forge_fields
from pipeline.automation.scheduled_jobs import JOBS, cine, nightly
from pipeline.automation.sensors import new_studies, report_failures, report_regressions

forge = Forge(**forge_fields(os.environ))

all_assets = dg.load_assets_from_modules(
    [studies, localiser, slices, synthesis, quality, segmenters, scores, comparison, champion]
)

defs = dg.Definitions(
    assets=all_assets,
    jobs=[*JOBS.values(), cine],
    schedules=[nightly],
    sensors=[new_studies, report_failures, report_regressions],
    resources={"forge": forge},
    executor=chosen_executor(os.environ, steps_of_pool(all_assets)),
)
