"""Standard error is for our own lines: libraries that announce themselves are asked not to."""

import os
import warnings


def quieten() -> None:
    """Silence announcements, progress bars and warnings about a library's own use of itself. Call it first."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    warnings.filterwarnings("ignore", message="Parameter `include_sources` of function `AssetSelection.all`")
