"""The MLflow model of a trained network: its signature, and that MLflow's own server really serves it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from engine.tracking.registered_models import save_mlflow_model
from runtime.compute import choose_compute
from runtime.model_card import ModelCard
from runtime.model_folder import write_model_folder
from segmentation.networks.table import build_network
from segmentation.prediction.segmenter import load_exportable, load_segmenter
from segmentation.training.config import TrainConfig
from tests.mlflow_stores import free_port
from tests.segmentation.toy_slices import draw_slices

CONFIG = TrainConfig.model_validate({"network": {"widths": (4, 8), "bottleneck": 8}})
IMAGES = draw_slices(3, 32)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("trained") / "model"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = build_network(CONFIG.network, 5).state_dict()
    write_model_folder(place, weights, CONFIG, ModelCard(label_set="emidec"))
    return place


@pytest.fixture(scope="module")
def saved(folder):
    target = folder.parent / "mlflow"
    save_mlflow_model(target, folder, lambda: load_exportable(folder), np.zeros((2, 1, 32, 32), np.float32))
    return target


def test_the_signature_names_what_goes_in_and_comes_out(saved):
    signature = mlflow.models.get_model_info(str(saved)).signature
    ((images,), (probabilities,)) = (signature.inputs.to_dict(), signature.outputs.to_dict())
    assert images["tensor-spec"] == {"dtype": "float32", "shape": (-1, 1, 32, 32)}
    assert probabilities["tensor-spec"] == {"dtype": "float32", "shape": (-1, 5, 32, 32)}


@pytest.mark.slow
def test_the_server_gives_the_segmenter_s_probabilities_and_label_map(saved, folder, tmp_path):
    segmenter = load_segmenter(folder, choose_compute("cpu", "fp32"), flips=False)
    with served(saved, tmp_path / "server.log") as address:
        for count in (1, 3):
            answer = post(address, IMAGES[:count, None])
            np.testing.assert_allclose(answer, segmenter.probabilities(IMAGES[:count]), atol=1e-5)
            np.testing.assert_array_equal(answer.argmax(axis=1), segmenter.labels(IMAGES[:count]))


@contextlib.contextmanager
def served(model, log):
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(model), "--host", "127.0.0.1"]
    # The exported graph holds no pickled code, and so it is served with unpickling forbidden.
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [*command, "--port", str(port), "--env-manager", "local"],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(address, server, log):
    for _ in range(2400):
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=1):
            return
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def post(address, images):
    body = json.dumps({"inputs": images.tolist()}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return np.array(json.load(answer)["predictions"], np.float32)
