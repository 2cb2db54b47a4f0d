"""What several commands ask alike: their options, and the display, profile and workspace that follow from them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Optional

import typer


def known_sources() -> list[str]:
    """Return the names of the formats, for a shell that completes them."""
    from imaging.sources.table import SOURCES

    return list(SOURCES)


def known_profiles() -> list[str]:
    """Return the names of the profiles, for a shell that completes them."""
    from engine.settings import profile_names

    return profile_names()


def checked_fold(text: str | None) -> str | None:
    """Check a fold; `all` runs every one."""
    if text not in (None, "all", *map(str, range(5))):
        raise typer.BadParameter(f"{text} is not greater than or equal to 0 and less than or equal to 4, nor `all`.")
    return text


SOURCE_HELP = "Format of the studies; `scarforge sources` lists them."
MODEL_HELP = "Name of `scarforge models list`, a pack's file, or SOURCE/PROFILE/NETWORK/TRAINING_SET of the workspace"
_PROFILE_HELP = "demo, tiny, quick, best or paper; default: quick, of the phantom demo."
SourceOption = Annotated[str, typer.Option(help=SOURCE_HELP, autocompletion=known_sources)]
Root = Annotated[Optional[Path], typer.Option(help="Folder of the studies.")]  # noqa: UP045 # typer
Profile = Annotated[Optional[str], typer.Option(help=_PROFILE_HELP, autocompletion=known_profiles)]  # noqa: UP045
TestedFold = Annotated[int, typer.Option(min=0, max=4, help="Which fifth of the patients is tested.")]
OneFold = Annotated[Optional[int], typer.Option(min=0, max=4, help="Only this fold's models; else all.")]  # noqa: UP045
Set = Annotated[list[str], typer.Option("--set", help="key=value laid over the profile; again for another.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print problems and the result alone.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print every validation round, too.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
OtherLocaliser = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="SOURCE/PROFILE whose localisers to use; a model of cropped slices knows no whole image."),
]
Flips = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option(help="Average over mirrored copies; default: as the model was configured."),
]
PostProcessing = Annotated[
    bool,
    typer.Option(
        "--post-processing/--no-post-processing",
        help="Correct label maps by the steps that helped the model's validation patients, and leave out unsure "
        "lesions unless those patients lose by it.",
    ),
]


@contextmanager
def display(quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Show how far the work is, as much of it as was asked for."""
    from common.progress import shown_live

    if quiet and verbose:
        raise typer.BadParameter("--quiet and --verbose say two things; give one of them")
    with shown_live("quiet" if quiet else "verbose" if verbose else ""):
        yield


def profile_of(source: str, profile: str | None) -> str:
    """Return the profile that was asked for, or the source's default."""
    from engine.run_config import default_profile

    return profile or default_profile(source)


def default_home() -> Path:
    """Return `SCARFORGE_HOME`, or `./workspace`."""
    return Path(os.environ.get("SCARFORGE_HOME", "workspace"))
