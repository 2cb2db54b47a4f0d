"""`scarforge models`: lists and shows trained models, adds and removes packs.

The command line reads this module at every start, so what its functions need is imported in them.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import InputError, some_of
from pipeline.options import MODEL_HELP, AsJson, OtherLocaliser, Quiet, default_home, display

if TYPE_CHECKING:
    from runtime.pack import Manifest

model_commands = typer.Typer(
    help="Trained models: shipped, added, or trained here.", no_args_is_help=True, rich_markup_mode=None
)


@model_commands.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models that --model takes, with their Dice."""
    from pipeline.commands.output import print_json, print_rows

    rows = listed_models(default_home())
    if as_json:
        print_json({"models": rows})
    elif rows:
        print_rows(rows)
    else:
        print("no model yet: add one with `scarforge models add FILE`, or train one with `scarforge run`")


@model_commands.command("show")
def show_model(name: Annotated[str, typer.Argument(help=f"{MODEL_HELP}.")]) -> None:
    """Print the card of a model."""
    print(card_of(default_home(), name), end="")


@model_commands.command("pack")
def pack_model(
    model: Annotated[
        str,
        typer.Argument(
            help="SOURCE/PROFILE/NETWORK/TRAINING_SET (of an experiment: SOURCE/PROFILE/experiments/NAME/arms/ARM/"
            "NETWORK/TRAINING_SET), or a model folder."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="NAME.safetensors; NAME.md, the card, goes beside it.")
    ],
    localiser: OtherLocaliser = None,
    localiser_fold: Annotated[list[int], typer.Option(help="Only this of its localisers; again for another.")] = [],  # noqa: B006
    external: Annotated[list[Path], typer.Option(help="Output of an external-test, for the card; again.")] = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Write a model with its localisers into one file, measured on the patients that each network had not seen."""
    from pipeline.commands.output import check_file
    from pipeline.commands.packing import pack_model as packed

    check_file(output, "--output")
    with display(quiet):
        packed(default_home(), model, output, localiser, localiser_fold, external)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB; its card: {output.with_suffix('.md')}")


@model_commands.command("add")
def add_model(
    pack: Annotated[str, typer.Argument(metavar="FILE|URL", help="A pack, or its https:// address.")],
    sha256: Annotated[str | None, typer.Option(help="Of the whole file, as its origin names it.")] = None,
    quiet: Quiet = False,
) -> None:
    """Check a pack and add it to this workspace."""
    with display(quiet):
        name, said = add_pack(default_home(), pack, sha256)
    print(
        f"model {name} is added: --model {name}; trained on " + "; ".join(f"{d.name}, {d.licence}" for d in said.data)
    )


@model_commands.command("remove")
def remove_model(name: Annotated[str, typer.Argument(help="Of an added model.")]) -> None:
    """Remove an added model."""
    print(f"{remove_pack(default_home(), name)} is removed")


def listed_models(home: Path) -> list[dict[str, str]]:
    """Return every model that `--model` takes: its name, where it is from, what it is, and its Dice."""
    from common.pages.words import count
    from engine.workspace import packs_of
    from pipeline.commands.models import models_in
    from runtime.pack import SHIPPED, Pack, named_packs

    rows = []
    for name, path in sorted(named_packs(packs_of(home)).items()):
        said = Pack.open(path).manifest
        where = "shipped" if path.parent == SHIPPED else "added"
        what = f"{said.network} of {said.source}, {count(len(said.networks), 'network')}"
        rows.append({"name": name, "where": where, "what": what, "dice": _dice_of(said)})
    for text in models_in(home):
        name, _, folds = text.partition(" ")
        rows.append({"name": name, "where": "trained here", "what": folds.strip("()"), "dice": _validated(home, name)})
    return rows


def card_of(home: Path, text: str) -> str:
    """Return the card of a model as Markdown; a workspace's model says what it was trained on.

    Raises:
        InputError: There is no such model.
    """
    from pipeline.commands.models import find_members, find_model
    from runtime.model_card import ModelCard
    from runtime.pack import SHIPPED, SUFFIX, Pack

    name = find_model(home, text)
    if name.pack:
        beside = name.pack.with_suffix(".md")
        shipped = name.pack.parent == SHIPPED and beside.is_file()
        return beside.read_text(encoding="utf-8") if shipped else Pack.open(name.pack).manifest.about
    lines = [f"# {name}", "", name.kind.about, "", "| fold | seed | validation Dice | weights |", "|---|---|---|---|"]
    for member in find_members(home, name):
        card = ModelCard.read(member.folder)
        dice = _tissues(card.dice.dice) if card.says("validation") else "unknown"
        lines.append(f"| {member.fold} | {member.seed} | {dice} | {member.folder} |")
    return "\n".join([*lines, "", f"Pack it with `scarforge models pack {name} -o NAME{SUFFIX}`."]) + "\n"


def add_pack(home: Path, given: str, sha256: str | None = None) -> "tuple[str, Manifest]":
    """Check a pack and add it to the workspace; nothing of one that is refused stays.

    Args:
        home: The workspace.
        given: A file, or an address; one of http needs `sha256`.
        sha256: Of the whole file, where its origin names it.

    Returns:
        The name that `--model` takes, and what the pack says.

    Raises:
        InputError: It is no pack, too large, damaged or another one than `sha256` says, or its name is taken.
    """
    from common.files import fetch, put_in_place, unwritable
    from engine.workspace import packs_of
    from runtime.pack import MOST_BYTES, SUFFIX

    if given.startswith("http://") and sha256 is None:
        raise InputError(f"{given}: anybody on the way can change what http gives; name its --sha256, or use https")
    folder = packs_of(home.absolute())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".adding_", dir=folder))
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        fetched = aside / f"pack{SUFFIX}"
        found = fetch(given, fetched, MOST_BYTES)
        if sha256 is not None and found != sha256.lower():
            raise InputError(f"{given}: has SHA-256 {found}, not {sha256}; get it again from where it comes from")
        said = _checked(home, given, fetched)
        _require_free(folder, said)
        put_in_place(fetched, folder / f"{said.name}{SUFFIX}")
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return said.name, said


def remove_pack(home: Path, name: str) -> Path:
    """Remove an added pack.

    Raises:
        InputError: None of this name was added.
    """
    from engine.workspace import packs_of
    from runtime.pack import SHIPPED, SUFFIX, is_pack_name, named_packs

    path = packs_of(home) / f"{name}{SUFFIX}"
    if is_pack_name(name) and path.is_file():
        path.unlink()
        return path
    if is_pack_name(name) and (SHIPPED / path.name).is_file():
        raise InputError(f"model {name!r} comes with ScarForge and stays; only added models can be removed")
    added = [path.stem for path in named_packs(packs_of(home)).values() if path.parent != SHIPPED]
    raise InputError(f"model {name!r} was not added; added are {some_of(added)}")


def _checked(home: Path, given: str, fetched: Path) -> "Manifest":
    """Read all of a pack and load its model, as a prediction would."""
    from pipeline.commands.models import ModelName, load_model
    from runtime.compute import choose_compute
    from runtime.pack import Pack

    try:
        said, compute = Pack.open(fetched).manifest, choose_compute("cpu", "fp32")
        name = ModelName.of_pack(fetched)
        load_model(home, name, None, None, compute, None, post_processing=True, localise=bool(said.localisers))
    except InputError as error:
        raise InputError(str(error).replace(str(fetched), given)) from error
    return said


def _require_free(folder: Path, said: "Manifest") -> None:
    from runtime.pack import SHIPPED, Pack, named_packs

    there = named_packs(folder).get(said.name)
    if there is None:
        return
    if there.parent == SHIPPED:
        raise InputError(f"model {said.name!r} comes with ScarForge; ask for the pack under another name")
    if Pack.open(there).digest != said.sha256:
        raise InputError(f"another model {said.name!r} was added; `scarforge models remove {said.name}` it first")


def _dice_of(said: "Manifest") -> str:
    found = {str(row["tissue"]): row["mean"] for row in said.results if row["rule"] == "positive"}
    return f"test {_tissues(found)}" if found else "not measured"


def _validated(home: Path, name: str) -> str:
    from pipeline.commands.models import ModelName, find_members
    from runtime.model_card import ModelCard

    cards = [ModelCard.read(member.folder) for member in find_members(home, ModelName.parse(name))]
    known = [card.dice.dice for card in cards if card.says("validation")]
    if not known:
        return "not measured"
    return f"validation {_tissues({tissue: sum(one[tissue] for one in known) / len(known) for tissue in known[0]})}"


def _tissues(dice: Mapping[str, Any]) -> str:
    from common.pages.words import words

    return ", ".join(f"{words(tissue)} {value:.3f}" for tissue, value in dice.items())
