"""A recipe whose lake is a bucket: the same cache as in a folder, whatever the network does, and clear refusals."""

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from pipeline.__main__ import main
from storage.verify import verify
from tests.pipeline import tiny
from tests.pipeline.test_resume import objects
from tests.s3.proxy import stormy

pytestmark = pytest.mark.s3

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a model, documents, and what a run makes of them in a folder."""
    base = tmp_path_factory.mktemp("base")
    tiny.save_decoder(base / "model")
    tiny.write_texts(base / "docs" / "a.jsonl", tiny.TEXTS)
    tiny.harvest(recipe(base, "lake"), base)
    return base


def recipe(base, lake):
    return tiny.table(base / "model", base, lake=lake, sites=["embed", "resid.1"], context=32, unit=128)


def unsigned(lake):
    """Every object; of records, what does not depend on who wrote them, nor the checksum over all of it."""
    found = objects(lake)
    return {name: one if isinstance(one, bytes) else one | {"crc32c": 0} for name, one in found.items()}


def test_a_run_through_a_storm_makes_the_same_cache_and_a_second_run_makes_nothing(
    base, bucket, proxy, hasty, tmp_path
):
    lake = f"{bucket}/lake"
    proxy.choose = stormy(0.1, seed=4, hang=1.2)
    cache, progress = tiny.harvest(recipe(base, lake), base)
    assert progress.forward_tokens > 0
    assert len({type(fault) for fault in proxy.spoilt}) >= 4
    fsspec.filesystem("s3").get(lake.removeprefix("s3://"), str(tmp_path / "copy"), recursive=True)
    assert unsigned(tmp_path / "copy") == unsigned(base / "lake")
    assert list(verify(cache))
    proxy.requests.clear()
    _, progress = tiny.harvest(recipe(base, lake), base)
    assert progress.forward_tokens == 0
    assert proxy.count("^(PUT|POST|DELETE)") == 0


@pytest.fixture
def refused(base, tmp_path, capsys):
    """`refused(lake, says)`: the run ends with 2 and one line, before the weights, which are nonsense, are loaded."""
    model = tiny.save_decoder(tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"nonsense")
    tiny.write_texts(tmp_path / "docs" / "a.jsonl", tiny.TEXTS)

    def check(lake, *says):
        code = main(["run", tiny.write_recipe(recipe(tmp_path, lake), tmp_path)])
        said = capsys.readouterr().err
        assert (code, said.count("\n")) == (2, 1), said
        for part in ("garner: ", lake, *says):
            assert part in said
        return said

    return check


def test_a_bucket_that_is_not_there_is_refused(refused, s3_server):
    refused("s3://not-there-at-all/lake", "no such bucket", "create it")


def test_credentials_that_are_wrong_are_refused_without_being_said(refused, bucket, s3_server, monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "s3", {"key": s3_server.key, "secret": "not-the-secret"})
    said = refused(f"{bucket}/lake", "SignatureDoesNotMatch", "check the credentials")
    assert not any(word in said for word in (s3_server.key, s3_server.secret, "not-the-secret"))


def test_an_endpoint_that_is_down_is_refused(refused, s3_server, monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": "http://127.0.0.1:9"})
    refused("s3://never-reached/lake", "nothing answers at http://127.0.0.1:9", "AWS_ENDPOINT_URL")


def test_the_command_itself_reads_its_environment_and_says_nothing_secret(bucket, s3_server):
    wrong = {"AWS_ACCESS_KEY_ID": "NOBODYATALL", "AWS_SECRET_ACCESS_KEY": "not-the-secret"}
    command = [sys.executable, "-m", "pipeline", "ls", f"{bucket}/lake"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | wrong, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"garner: {bucket}/lake")
    assert "InvalidAccessKeyId" in done.stderr
    assert not any(value in done.stderr for value in wrong.values())
