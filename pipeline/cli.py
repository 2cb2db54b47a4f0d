"""The command `scarforge`."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Optional

import typer

from common.progress import quieten
from pipeline.commands.packs import model_commands
from pipeline.options import (
    MODEL_HELP,
    SOURCE_HELP,
    AsJson,
    Flips,
    OneFold,
    OtherLocaliser,
    PostProcessing,
    Profile,
    Quiet,
    Root,
    Set,
    SourceOption,
    TestedFold,
    Verbose,
    checked_fold,
    default_home,
    display,
    known_sources,
    profile_of,
)
from pipeline.outermost import run_command
from segmentation.networks.table import NETWORKS

app = typer.Typer(
    help="Does GAN-synthesised data make a scar segmenter better, for which tissue and by how much?",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # plain help is cut at no width
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"scarforge {version('scarforge')}")
        raise typer.Exit


@app.callback()
def _of_all(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def init(
    root: Annotated[Path, typer.Argument(help="Folder of the studies.")],
    source: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Format of the studies; default: found out.", autocompletion=known_sources),
    ] = None,
    profile: Profile = None,
    set_: Annotated[list[str], typer.Option("--set", help="source.key=value, for formats that leave it open.")] = [],  # noqa: B006
    output: Annotated[Path, typer.Option("--output", "-o", help="The file that is written.")] = Path("scarforge.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Look into a folder of studies, tell what is there, and write scarforge.yaml for `scarforge run`."""
    from pipeline.commands.output import check_file
    from pipeline.commands.run_file import check_free, look_into, write_run_file

    check_file(output, "--output")
    check_free(output, force)
    with display():
        found = look_into(root, source, set_)
    write_run_file(output, found, profile)
    print("\n".join([*found.lines(), f"{output} is written: look into it, then start `scarforge run`"]))


@app.command()
def run(
    config: Annotated[
        Optional[Path],  # noqa: UP045 # typer
        typer.Option(help="What is run, as `scarforge init` writes it; default: ./scarforge.yaml without --source."),
    ] = None,
    source: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help=f"{SOURCE_HELP}  [default: phantom]", autocompletion=known_sources),
    ] = None,
    root: Root = None,
    profile: Profile = None,
    fold: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(callback=checked_fold, help="Fifth of the patients that is tested, 0 to 4, or all.  [default: 0]"),
    ] = None,
    set_: Set = [],  # noqa: B006
    seed: Annotated[list[int], typer.Option("--seed", help="Seeds in place of the profile's.")] = [],  # noqa: B006
    yardsticks: Annotated[bool, typer.Option("--yardsticks", help="Print the yardsticks' scores, too.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run the whole graph, and print the verdict by tissue; the same command again continues a killed run."""
    from pipeline.commands.run import print_result, run_fold, run_folds
    from pipeline.commands.run_file import chosen_run

    wanted = chosen_run(config, source, root, profile, fold, set_, seed)
    what = (wanted.source, wanted.root, wanted.profile or profile_of(wanted.source, None))
    with display(quiet, verbose):
        forge = run_folds(
            wanted.folds, lambda fold: run_fold(*what, fold, default_home(), wanted.overrides, wanted.seeds)
        )
    print_result(forge, wanted.folds, yardsticks)


@app.command()
def scores(
    source: SourceOption = "phantom",
    profile: Profile = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045 # typer
        typer.Option("--output", "-o", help="Folder of scores.md, tables as CSV, and the MLflow runs behind them."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tabulate the test patients of all finished folds together, as drawn and without unsure lesions."""
    from pipeline.commands.output import print_json, print_markdown
    from pipeline.commands.scores import pool_scores

    pooled = pool_scores(default_home().absolute(), source, profile_of(source, profile), output)
    if as_json:
        print_json(pooled.as_json())
    else:
        print_markdown(pooled.text)


@app.command()
def evaluate(
    reference: Annotated[Path, typer.Option(help="Folder of reference label maps.")],
    prediction: Annotated[Path, typer.Option(help="Folder of predicted label maps, in this layout or flat.")],
    output: Annotated[Path, typer.Option(help="Where scores.csv, patients.csv and summary.csv go.")],
    format_: Annotated[str, typer.Option("--format", help="Layout and label numbers: emidec or acdc.")] = "emidec",
    as_json: AsJson = False,
) -> None:
    """Score any two folders of label maps under every rule, with intervals."""
    from pipeline.commands.evaluate import evaluate as evaluate_label_maps

    raise typer.Exit(evaluate_label_maps(reference, prediction, format_, output, as_json))


@app.command()
def compare(
    predictions: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER", help="Of predicted label maps, two or more; the first is compared with."),
    ],
    reference: Annotated[Path, typer.Option(help="Folder of reference label maps.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the tables, figures and report.html.")],
    name: Annotated[list[str], typer.Option(help="What a folder is called, in their order.")] = [],  # noqa: B006
    format_: Annotated[str, typer.Option("--format", help="Layout and label numbers: emidec or acdc.")] = "emidec",
) -> None:
    """Compare folders of label maps, anybody's, in pairs of patients: differences, intervals, verdicts.

    Several trainings go into sub-folders seed_0, seed_1 and so on; those of cross-validation into fold_0, fold_1.

    Exit status: 0 all is well, 2 a label map could not be scored or did not belong there.
    """
    from pipeline.commands.compare import compare as compare_label_maps

    raise typer.Exit(compare_label_maps(reference, predictions, name, format_, output))


@app.command()
def trials(
    source: SourceOption = "phantom",
    root: Root = None,
    profile: Profile = None,
    fold: TestedFold = 0,
    steps: Annotated[Optional[int], typer.Option(min=1, help="Of each trial.")] = None,  # noqa: UP045 # typer
    only: Annotated[list[str], typer.Option(help="Trials that are wanted, such as trial_10.")] = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train the source's ten trials and the improved generators on one finished fold, and tabulate them."""
    from engine.forge import Forge
    from engine.run_config import check_names
    from pipeline.commands.output import print_markdown
    from pipeline.commands.trials import run_trials

    home = default_home().absolute()
    place = str(root.absolute()) if root else ""
    profile = profile_of(source, profile)
    check_names(source, profile)
    forge = Forge(source=source, root=place, profile=profile, home=str(home), overrides=list(set_))
    with display(quiet, verbose):
        folder = run_trials(forge, fold, steps, only, set_)
    print_markdown((folder / "trials.md").read_text(encoding="utf-8"))
    print(f"Table, page and models: {folder}")


@app.command()
def sweep(
    source: SourceOption = "phantom",
    root: Root = None,
    profile: Profile = None,
    fold: TestedFold = 0,
    shares: Annotated[
        str, typer.Option("--shares", "--synthetic-share", help="Of synthetic slices, 0 to 1.")
    ] = "0,0.25,0.5,0.75,1",
    patients: Annotated[
        str, typer.Option("--patients", "--real-patients", help="Numbers of real training patients, such as 10,20,all.")
    ] = "all",
    network: Annotated[str, typer.Option(help=f"{' or '.join(NETWORKS)}.")] = "attention_res_unet",
    slices: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=10, help="In every training set; default: the profile's."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Such as 0,1,2, in place of the profile's.")] = "",
    set_: Set = [],  # noqa: B006
    scored_on: Annotated[str, typer.Option(help="test or validation patients.")] = "test",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a segmenter at several shares of synthetic slices on one fold: an experiment whose plan is written here."""
    from pipeline.commands.experiment.plan import read_patients, read_seeds, read_shares, sweep_plan
    from pipeline.commands.experiment.report import conduct
    from pipeline.commands.output import print_markdown

    chosen, profile = (read_shares(shares), read_patients(patients)), profile_of(source, profile)
    plan = sweep_plan(source, root, profile, fold, *chosen, network, slices, read_seeds(seeds), set_, scored_on)
    with display(quiet, verbose):
        report = conduct(plan, default_home())
    print_markdown(report)


@app.command()
def experiment(
    plan: Annotated[str, typer.Argument(help="The plan, a YAML file; or `status`, followed by the plan.")],
    of: Annotated[Optional[Path], typer.Argument(help="With `status`: the plan.")] = None,  # noqa: UP045
    only: Annotated[list[str], typer.Option(help="Only this arm; again for another.")] = [],  # noqa: B006
    fold: Annotated[list[int], typer.Option(min=0, max=4, help="Only this fold; again for another.")] = [],  # noqa: B006
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train and score arms x folds x seeds x patients; the same command again continues, whatever ended it."""
    from pipeline.commands.experiment.plan import read_plan
    from pipeline.commands.experiment.report import conduct, tell_status
    from pipeline.commands.output import print_markdown

    if plan == "status":
        print(tell_status(of, default_home()))
    else:
        with display(quiet, verbose):
            report = conduct(read_plan(Path(plan)), default_home(), only, fold)
        print_markdown(report)


@app.command()
def predict(
    studies: Annotated[list[Path], typer.Argument(help="NIfTI files, folders of DICOM slices, or folders of either.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of label maps, tables and index.html.")],
    model: Annotated[Optional[str], typer.Option(help=f"{MODEL_HELP}; default: lge.")] = None,  # noqa: UP045 # typer
    fold: OneFold = None,
    localiser: OtherLocaliser = None,
    phase: Annotated[Optional[int], typer.Option(min=1, help="Only this phase of a DICOM cine; else all.")] = None,  # noqa: UP045
    flips: Flips = None,
    dicom_seg: Annotated[bool, typer.Option(help="Also write DICOM segmentations (needs scarforge[dicom]).")] = False,
    post_processing: PostProcessing = False,
    probabilities: Annotated[
        bool, typer.Option(help="Also write each tissue's probability, NIfTI on the study's grid.")
    ] = False,
    layout: Annotated[
        str, typer.Option(help="scarforge, or nnunet: CASE.nii.gz in one folder, flagged ones too, and dataset.json.")
    ] = "scarforge",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Segment new studies: label maps in their own geometry, volumes, uncertainty, pictures and one page.

    A study unlike the model's training data, or with an implausible result, goes to OUTPUT/flagged.

    Exit status: 0 all is well, 2 a study could not be segmented, 3 a study was flagged.
    """
    from pipeline.commands.predict.predict import PredictOptions
    from pipeline.commands.predict.predict import predict as predict_studies

    options = PredictOptions(
        model, output, fold, localiser, phase, flips, dicom_seg, post_processing, probabilities, layout
    )
    with display(quiet, verbose):
        status = predict_studies(default_home(), studies, options)
    raise typer.Exit(status)


@app.command()
def external_test(
    model: Annotated[list[str], typer.Option(help=f"{MODEL_HELP}; again for another model.")],
    source: Annotated[str, typer.Option(help="Format of the labelled studies; `scarforge sources` lists them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the tables of scores.")],
    root: Root = None,
    fold: OneFold = None,
    localiser: OtherLocaliser = None,
    crop: Annotated[
        str, typer.Option(help="Cut around the box of the `localiser`, or around the `reference`'s ventricle.")
    ] = "localiser",
    flips: Flips = None,
    post_processing: PostProcessing = False,
    set_: Annotated[list[str], typer.Option("--set", help="source.key=value, for formats that leave it open.")] = [],  # noqa: B006
) -> None:
    """Test trained models on the labelled studies of another source, as `predict` and `evaluate` would.

    Only tissues that model and reference both know are scored; of two models the difference is given, too.

    Exit status: 0 all is well, 2 a study could not be read or segmented, 3 a study was flagged (and scored).
    """
    from pipeline.commands.external_test import ExternalTestOptions
    from pipeline.commands.external_test import external_test as test_models

    options = ExternalTestOptions(
        tuple(model), source, root, output, fold, localiser, crop, flips, post_processing, tuple(set_)
    )
    raise typer.Exit(test_models(default_home(), options))


@app.command()
def export(
    model: Annotated[str, typer.Option(help=f"{MODEL_HELP}.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the files and export.json.")],
    format_: Annotated[str, typer.Option("--format", help="onnx (needs scarforge[export]) or torch_export.")] = "onnx",
    fold: Annotated[Optional[int], typer.Option(min=0, max=4, help="Only this fold's networks; else all.")] = None,  # noqa: UP045
) -> None:
    """Export a trained model's networks, each compared with PyTorch, to run without this project."""
    from pipeline.commands.export import export as export_networks

    export_networks(default_home(), model, format_, output, fold)


@app.command()
def export_dataset(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the data sets: nnU-Net's nnUNet_raw.")],
    source: Annotated[str, typer.Option(help="Format of the studies; `scarforge sources` lists them.")] = "phantom",
    profile: Annotated[str, typer.Option(help="demo, tiny, quick, best or paper.")] = "demo",
    fold: Annotated[int, typer.Option(min=0, max=4, help="Whose training sets and test patients.")] = 0,
    format_: Annotated[str, typer.Option("--format", help="nnunet: nnU-Net v2's raw layout.")] = "nnunet",
    id_: Annotated[int, typer.Option("--id", help="Number of the real-only data set; the other has the next.")] = 501,
) -> None:
    """Write both training sets of a finished fold as data sets for other programs, with the fold's own split."""
    from engine.forge import Forge
    from pipeline.commands.export import export_dataset as export_both_arms

    forge = Forge(source=source, profile=profile, home=str(default_home().absolute()))
    export_both_arms(forge, fold, format_, output, id_)


@app.command()
def sources() -> None:
    """List the formats that studies can be read from."""
    from imaging.sources.table import SOURCES

    for name, source in SOURCES.items():
        labels = source.label_set.name if source.label_set else "either (source.label_set)"
        print(f"{name:<12} {source.about}; label set {labels}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Tell what this machine has and what would be used."""
    from pipeline.services.doctor import print_report

    print_report(default_home(), as_json)


@app.command()
def clean(
    older_than: Annotated[float, typer.Option(min=0, help="Days that what is left over is kept.")] = 30,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; else it is only listed.")] = False,
) -> None:
    """List, or delete, what killed builds left and old runs of Dagster; no result is ever deleted."""
    from pipeline.commands.clean import clean as clean_workspace

    print(clean_workspace(default_home(), older_than, delete))


@app.command()
def ui(
    dagster_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Dagster's webserver.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow's server.")] = 5000,
    host: Annotated[str, typer.Option(help="Name or address that both listen on.")] = "127.0.0.1",
    password_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File of one line NAME:PASSWORD, for your eyes only (chmod 600); both ask for it."),
    ] = None,
    behind_proxy: Annotated[
        list[str], typer.Option(help="Host under which a proxy asks for Dagster; once more for MLflow.")
    ] = [],  # noqa: B006
) -> None:
    """Start Dagster's webserver and daemon, and MLflow's server, on loopback, closed to other sites' pages."""
    from pipeline.services.ui import serve

    code = serve(
        default_home(), dagster_port, mlflow_port, host=host, password_file=password_file, behind_proxy=behind_proxy
    )
    raise typer.Exit(code)


store_commands = typer.Typer(help="Look into slice stores.", no_args_is_help=True, rich_markup_mode=None)
track_commands = typer.Typer(help="What MLflow has not got yet.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(model_commands, name="models")
app.add_typer(store_commands, name="store")
app.add_typer(track_commands, name="track")


@store_commands.command("show")
def show_store(
    file: Annotated[Path, typer.Argument(help="A slices.h5.")],
    sheet: Annotated[Path, typer.Option(help="Where the contact sheet goes.")] = Path("contact_sheet.png"),
) -> None:
    """Print what a store holds, and draw a contact sheet of it."""
    from pipeline.commands.store import show

    show(file, sheet)


@track_commands.command("replay")
def replay_tracking() -> None:
    """Send the runs that MLflow lacks: those of a time when it was away, or all that a new store lacks."""
    from common.pages.words import count
    from engine.tracking.publish import replay, waiting_runs
    from engine.tracking.store import shown, tracking_places

    places = tracking_places(default_home().absolute(), os.environ)
    print(f"sent {count(replay(places), 'run')} to {shown(places.uri)}; {waiting_runs(places)} are still waiting")


for _command in app.registered_commands:  # in the list of commands, what each does is not cut
    _command.short_help = (_command.callback.__doc__ or "").partition("\n")[0] if _command.callback else ""


def main() -> None:
    """Run the command; what ends it is an exit status and at most one line, not a traceback."""
    quieten()
    run_command(app)


if __name__ == "__main__":
    main()
