"""A whole fold whose steps are Ray jobs: finished in Dagster's PostgreSQL and in MLflow's, and nowhere else."""

import pandas as pd
import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

FOLD = 0
TRAINED = ("attention_res_unet_real_only", "halsr_net_real_plus_gan")


@pytest.fixture(scope="module")
def fold(forge):
    run = forge.launch(FOLD)
    assert forge.wait_for_end(run, 3000) == "SUCCESS", forge.problems(run)
    return run


def test_every_step_was_a_ray_job_and_every_asset_is_in_dagsters_postgresql(forge, fold):
    from pipeline.definitions import defs

    assets = {key.to_user_string() for key in defs.resolve_asset_graph().materializable_asset_keys}
    steps = forge.events(fold, "STEP_SUCCESS")
    assert set(steps) == assets
    assert len(steps) == len(set(steps))
    query = "SELECT count(*) FROM event_logs WHERE run_id = %s AND event LIKE %s"
    jobs = forge.postgres.rows("dagster", query, fold, "%in Ray job dagster-step-%")
    assert jobs == [(len(assets),)]
    materialised = {row[0] for row in forge.postgres.rows("dagster", "SELECT asset_key FROM asset_keys")}
    assert materialised == {f'["{asset}"]' for asset in assets}


def test_every_training_and_evaluation_is_finished_in_mlflows_postgresql(forge, fold):
    assert forge.postgres.rows("mlflow", "SELECT DISTINCT status FROM runs") == [("FINISHED",)]
    query = "SELECT value, count(*) FROM tags WHERE key = 'stage' GROUP BY value"
    stages = dict(forge.postgres.rows("mlflow", query))
    assert stages["training"] == stages["evaluation"] == 4
    assert forge.postgres.rows("mlflow", "SELECT count(*) FROM latest_metrics WHERE key = 'dice/positive/cavity'") == [
        (4,)
    ]


def test_no_sqlite_file_of_either_tool_was_made(forge, fold):
    assert not (forge.home / "mlflow.db").exists()
    assert [
        path for path in (forge.home / "dagster").rglob("*.db") if "runs" in path.name or "index" in path.name
    ] == []


def test_no_password_is_written_in_dagsters_home_nor_told_by_the_list_of_processes(forge, fold):
    import psutil

    settings = (forge.home / "dagster" / "dagster.yaml").read_text()
    assert "SCARFORGE_DAGSTER_POSTGRES" in settings
    assert "secret" not in settings
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if "100%25%20secret" in command]


def test_models_and_scores_lie_in_the_workspace(forge, fold):
    root = forge.home / "phantom" / "tiny"
    for name in TRAINED:
        assert (root / name / f"fold_{FOLD}" / "seed_0" / "weights.safetensors").exists()
        scores = pd.read_csv(root / f"{name}_scores" / f"fold_{FOLD}" / "seed_0" / "scores.csv")
        assert scores.loc[scores["metric"] == "dice", "value"].between(0, 1).all()
    assert not list(root.rglob(".*.partial"))
