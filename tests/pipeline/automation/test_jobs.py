"""What the jobs of the interface run on: every field of the environment, since Dagster fills none in."""

import json
import os
import subprocess
import sys
from pathlib import Path

from engine.forge import Forge
from engine.run_config import forge_fields
from pipeline.automation.scheduled_jobs import BY_SCHEDULE, NightlySettings, night_requests

ROOT = Path(__file__).parents[3]
CODE = """
import json
from pipeline.definitions import defs, forge
jobs = {name: defs.resolve_job_def(name).partitioned_config for name in ("tiny_fold", "quick_fold", "cine")}
chosen = {name: job.get_run_config_for_partition_key("0") for name, job in jobs.items()}
fields = {name: config["resources"]["forge"]["config"] for name, config in chosen.items()}
print(json.dumps({"forge": {key: getattr(forge, key) for key in fields["cine"]}, **fields}))
"""


def test_a_job_that_sets_its_profile_keeps_source_folder_and_workspace_of_the_environment(tmp_path):
    given = {"SCARFORGE_SOURCE": "emidec", "SCARFORGE_ROOT": "data", "SCARFORGE_HOME": "elsewhere"}
    environment = {**os.environ, **given, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    environment.pop("SCARFORGE_PROFILE", None)
    found = json.loads(subprocess.check_output([sys.executable, "-c", CODE], env=environment, cwd=tmp_path))
    root, home = str(tmp_path / "data"), ""  # a stored run names no workspace, since that may be moved
    assert found == {
        "forge": {"source": "emidec", "root": root, "profile": "quick", "home": home},
        "quick_fold": {"source": "emidec", "root": root, "profile": "quick", "home": home},
        "cine": {"source": "emidec", "root": root, "profile": "quick", "home": home},
        "tiny_fold": {"source": "phantom", "root": "", "profile": "tiny", "home": home},
    }


def test_a_night_reads_the_folder_of_its_settings(tmp_path):
    settings = NightlySettings(source="emidec", profile="quick", root=tmp_path)
    (request,) = night_requests(settings, BY_SCHEDULE, "2026-01-01", "2026-01-01")
    config = request.run_config["resources"]["forge"]["config"]
    assert (config["source"], config["root"], config["profile"]) == ("emidec", str(tmp_path), "quick")
    assert config.keys() == forge_fields({}).keys()


def test_without_an_environment_the_phantom_runs_in_a_workspace_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCARFORGE_HOME", raising=False)
    fields = forge_fields({})
    assert fields == {"source": "phantom", "root": "", "profile": "demo", "home": ""}
    assert Forge(**fields).workspace.home == tmp_path / "workspace"
    monkeypatch.setenv("SCARFORGE_HOME", "elsewhere")
    assert Forge(**fields).workspace.home == tmp_path / "elsewhere"
