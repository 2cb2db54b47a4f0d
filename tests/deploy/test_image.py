"""What the image holds: the copies of its recipe, under what its list lets through to the builder."""

import re
from fnmatch import fnmatch
from pathlib import Path

from runtime.pack import SHIPPED

ROOT = Path(__file__).parents[2]
RECIPE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
IGNORED = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(encoding="utf-8")


def reaches_the_builder(path):
    """Whether a file is sent: the last line that names it or a folder above it decides, as Docker has it."""
    sent = True
    for line in (line for line in IGNORED.splitlines() if line and not line.startswith("#")):
        pattern, above = line.removeprefix("!"), [str(one) for one in (path, *path.parents) if one != Path()]
        if any(matches(one, pattern) for one in above):
            sent = line.startswith("!")
    return sent


def matches(path, pattern):
    """Compare as Docker does: `*` stays within a folder, `**/` stands for any folders or none."""
    if pattern.startswith("**/"):
        return fnmatch(path.rpartition("/")[2], pattern.removeprefix("**/"))
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


def copied():
    """Yield the paths that the recipe copies from the repository."""
    for line in re.findall(r"^COPY (.+)$", RECIPE, re.MULTILINE):
        yield from map(Path, line.split()[:-1])


def test_what_is_copied_is_there_and_reaches_the_builder():
    for path in copied():
        assert (ROOT / path).exists(), path
        assert reaches_the_builder(path), path


def test_the_image_holds_the_packs_and_their_cards():
    packs = [path.relative_to(ROOT) for path in SHIPPED.iterdir()]
    assert {path.suffix for path in packs} == {".safetensors", ".md"}
    for path in packs:
        assert reaches_the_builder(path), path
        assert any(path.is_relative_to(one) for one in copied()), path


def test_no_workspace_history_or_secret_reaches_the_builder():
    for name in (".git/config", "workspace/emidec/quick/studies/studies.h5", "deploy/secrets/token", "tests/x.py"):
        assert not reaches_the_builder(Path(name)), name
    assert not reaches_the_builder(Path("engine/__pycache__/record.cpython-311.pyc"))
