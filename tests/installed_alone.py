"""Whether an installed wheel holds every module, profile and template: for `make test-wheel`, away from the sources."""

import importlib
import pkgutil
from importlib import resources
from pathlib import Path

ROOMS = ("common", "imaging", "runtime", "gan", "segmentation", "engine", "assets", "pipeline")
SOURCES = Path(__file__).parents[1]
OPTIONAL = ("dagster_ray", "dagster_k8s")


def main() -> None:
    """Import every module, load every profile, and find every template of the sources."""
    found = [
        module
        for room in ROOMS
        for module in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}.")
        if not module.ispkg
    ]
    for module in found:
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
    written = [path for room in ROOMS for path in (SOURCES / room).rglob("*.py") if path.name != "__init__.py"]
    assert len(found) == len(written), f"{len(written)} modules in the sources, {len(found)} in the wheel"
    from engine.settings import load_settings, profile_names

    for profile in profile_names():
        load_settings(profile)
    templates = [
        path for room in ROOMS for path in (SOURCES / room).rglob("templates/*") if path.suffix in (".j2", ".css")
    ]
    for path in templates:
        package = ".".join(path.parents[1].relative_to(SOURCES).parts)
        assert resources.files(package).joinpath("templates", path.name).is_file(), f"{path} is not in the wheel"
    from runtime.pack import SHIPPED

    models = sorted(path.name for path in (SOURCES / "models").iterdir() if path.suffix in (".safetensors", ".md"))
    assert models == sorted(path.name for path in SHIPPED.iterdir()), f"the wheel holds not these: {models}"
    print(
        f"the wheel holds {len(found)} modules, {len(profile_names())} profiles {len(templates)} templates and {models}"
    )


if __name__ == "__main__":
    main()
