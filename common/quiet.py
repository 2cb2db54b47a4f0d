"""Standard error is for our own lines: libraries that announce themselves are asked not to."""

import logging
import os
import warnings

DEBUG = "SCARFORGE_DEBUG"
_WARNINGS, _FAULTS = "py.warnings", "common.guard"


def quieten() -> None:
    """Silence announcements, progress bars and warnings of libraries. Call it first.

    Warnings go to the logger that Python has for them, where they can be seen with `SCARFORGE_DEBUG=1`, as can the
    tracebacks of what the guard around each study caught.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    warnings.filterwarnings("ignore", message="Parameter `include_sources` of function `AssetSelection.all`")
    logging.captureWarnings(True)
    logging.getLogger(_WARNINGS).propagate = False
    if os.environ.get(DEBUG, "") not in ("", "0"):
        for name in (_WARNINGS, _FAULTS):
            log = logging.getLogger(name)
            log.addHandler(logging.StreamHandler())
            log.setLevel(logging.DEBUG)
