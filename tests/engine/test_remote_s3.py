"""The same as `test_remote.py`, once, against a server that speaks S3 on loopback."""

import os
import shutil

import pytest

from engine.outcome import Outcome
from engine.record import produce
from engine.remote import Remote, UnreachableError

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow"),  # moto and botocore; when they stop using it
]


@pytest.fixture
def bucket(monkeypatch):
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()  # fsspec keeps connections by their arguments, not by the environment
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    import boto3

    boto3.client("s3").create_bucket(Bucket="models")
    yield "s3://models/scarforge"
    server.stop()


def test_a_model_travels_through_s3_and_a_later_one_replaces_it(tmp_path, bucket):
    import boto3

    weights = {"early": os.urandom(1 << 20), "late": os.urandom(1 << 20)}

    def make(machine, text):
        home = tmp_path / machine
        place = home / "phantom" / "demo" / "pix2pix" / "fold_0"

        def build(folder):
            (folder / "weights.safetensors").write_bytes(weights[text])
            return Outcome({})

        return produce(place, "pix2pix", text, build, "", Remote(bucket, home))

    built, _ = make("a", "early")
    assert make("b", "early") == (built, True)
    make("b", "late")
    assert make("a", "late")[1]
    assert (tmp_path / "a/phantom/demo/pix2pix/fold_0/weights.safetensors").read_bytes() == weights["late"]
    objects = boto3.client("s3").list_objects_v2(Bucket="models")["Contents"]
    names = [item["Key"].removeprefix("scarforge/phantom/demo/pix2pix/fold_0/") for item in objects]
    assert sorted(name.rpartition("/")[-1] for name in names) == ["record.json", "weights.safetensors"]
    shutil.rmtree(tmp_path / "a")
    Remote(bucket, tmp_path / "a").refresh_below(tmp_path / "a" / "phantom" / "demo" / "pix2pix")
    assert (tmp_path / "a/phantom/demo/pix2pix/fold_0/weights.safetensors").read_bytes() == weights["late"]


def test_a_bucket_that_does_not_exist_is_named_and_the_result_stays(tmp_path, bucket, caplog):
    place = tmp_path / "phantom" / "demo" / "studies"

    def build(folder):
        (folder / "studies.h5").write_text("kept")
        return Outcome({})

    produce(place, "studies", "key", build, "", Remote("s3://no-such-bucket/prefix", tmp_path))
    assert (place / "studies.h5").read_text() == "kept"
    assert "is not published (The specified bucket does not exist" in caplog.text


def test_a_server_that_is_gone_is_said_in_the_words_of_its_driver(tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nothing listens on the port "discard"
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UnreachableError, match=r"s3://models/other: .*127\.0\.0\.1:9"):
        Remote("s3://models/other", tmp_path)._store.write("x", b"")
