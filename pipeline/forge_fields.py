"""The fields of the resource `forge` as the environment sets them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def forge_fields(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return source, root, profile and home, for everything that configures a run.

    Dagster resets the fields that a run's configuration leaves out to their class's defaults, whatever the resource
    was made with. So whoever sets one of them, as each job sets its profile, has to give all.

    Args:
        environment: Usually `os.environ`.
    """
    root = environment.get("SCARFORGE_ROOT")
    return {
        "source": environment.get("SCARFORGE_SOURCE", "phantom"),
        "root": str(Path(root).absolute()) if root else "",
        "profile": environment.get("SCARFORGE_PROFILE", "demo"),
        "home": "",  # the environment's where the run is carried out, since a stored run outlives a moved workspace
    }
