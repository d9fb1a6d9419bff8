"""Artifacts in an S3 bucket, over HTTP to a moto server of this test's own; the same promises hold of ``memory://`` and ``file://``."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from cifer_tasks.artifacts import ArtifactStore
from cifer_tasks.config import parse
from cifer_tasks.errors import ConfigError, IntegrityError, StorageError, UsageError
from cifer_tasks.shelves import address_of, sha256_of
from cifer_tasks.workspace import StepStarted

SECRET = "planted-secret-88e1"
BUCKET = "cifer-tests"


@pytest.fixture(scope="module")
def bucket() -> Iterator[object]:
    """An empty bucket; who asks for it and where it is stand in the environment alone."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as environment:
        host, port = server.get_host_and_port()
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "cifer")
        environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client
    server.stop()


class PowerCut(BaseException):
    """The process ends here: not an `Exception`, so that nothing on the way treats it as a step that raised."""


def test_a_training_whose_artifacts_are_in_a_bucket(trainer: Any, bucket: Any, tmp_path: Path) -> None:
    """Cut short in round 2 and taken up again, it ends in the model that plain updates in a local folder give; its bundle, read from the
    bucket, verifies and replays; with one object of the bucket replaced, nothing is exported.
    """
    local = trainer.history(trainer.run(baselines=False).run)
    settings = trainer.settings(encryption__scheme="threshold", baselines=False, artifacts=f"s3://{BUCKET}/training")
    ref = trainer.open(settings)
    before = {path.name for path in (trainer.home / "artifacts").rglob("*")}

    def cut(progress: Any) -> None:
        if isinstance(progress, StepStarted) and (progress.step, progress.round) == ("aggregate", 2):
            raise PowerCut

    with pytest.raises(PowerCut):
        trainer.train(ref, [cut])
    resumed = trainer.cifer("run", "--resume", ref.run)
    assert resumed.code == 0, resumed
    found = trainer.history(ref.run)
    assert (found.status, found.current_model) == ("completed", local.current_model)
    assert {path.name for path in (trainer.home / "artifacts").rglob("*")} == before
    keys = [item["Key"] for item in bucket.list_objects_v2(Bucket=BUCKET, Prefix="training/")["Contents"]]
    assert {f"training/{address_of(item.ciphertext.hex())}" for each in found.rounds for item in each.submissions} <= set(keys)

    (tmp_path / "genesis.json").write_text(trainer.cifer("ledger", "genesis").out)
    export = ("export", "lab@champion", "--with-artifacts", "-o")
    assert trainer.cifer(*export, tmp_path / "lab.cifer").code == 0
    replayed = trainer.cifer("verify", tmp_path / "lab.cifer", "--genesis", tmp_path / "genesis.json", "--replay")
    assert replayed.code == 0 and found.current_model.hex() in replayed.out, replayed

    key = f"training/{address_of(found.rounds[1].submissions[0].ciphertext.hex())}"
    bucket.put_object(Bucket=BUCKET, Key=key, Body=b"what a host put instead")
    refused = trainer.cifer(*export, tmp_path / "damaged.cifer")
    assert refused.code == 1 and "damaged" in refused.err and not (tmp_path / "damaged.cifer").exists(), refused


@pytest.fixture(params=["s3", "memory", "file"])
def url(request: pytest.FixtureRequest, bucket: object, tmp_path: Path) -> str:
    """A store that nothing is in yet."""
    fresh = secrets.token_hex(4)
    return {"s3": f"s3://{BUCKET}/{fresh}", "memory": f"memory://{fresh}", "file": f"file://{tmp_path / fresh}"}[request.param]


@given(content=st.binary(max_size=4096))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_put_is_got_by_its_digest(url: str, content: bytes) -> None:
    """Any bytes come back, to another store object on the same URL too, found by digest; putting them again changes nothing."""
    ref = ArtifactStore(url).put("model", content)
    assert (ref.digest, ref.size_bytes) == (sha256_of(content), len(content))
    other = ArtifactStore(url)
    assert other.get(other.find("model", ref.digest)) == content
    assert other.put("model", content) == ref


def test_a_store_sees_what_others_wrote_after_it_looked(url: str) -> None:
    """A listing that one store made hides nothing that another puts afterwards; only whole artifacts are listed; removing ends it."""
    first, second = ArtifactStore(url), ArtifactStore(url)
    one = first.put("model", b"one")
    assert [digest for digest, _ in first.shelf.held()] == [one.digest]
    two = second.put("model", b"two")
    assert first.exists(two) and first.get(two) == b"two"
    assert {digest for digest, _ in first.shelf.held()} == {one.digest, two.digest}
    second.shelf.remove(address_of(one.digest))
    assert not first.exists(one)
    with pytest.raises(IntegrityError, match="is missing"):
        first.get(one)


def test_bytes_that_a_bucket_changed_are_refused_and_written_again(bucket: object) -> None:
    """Whoever holds the bucket can replace an object, and every reader notices; putting the artifact again repairs it."""
    store = ArtifactStore(f"s3://{BUCKET}/damaged")
    ref = store.put("ciphertext", b"what a site encrypted")
    bucket.put_object(Bucket=BUCKET, Key=f"damaged/{address_of(ref.digest)}", Body=b"what a host put instead")  # type: ignore[attr-defined]
    with pytest.raises(IntegrityError, match="damaged: 23 bytes"):
        store.get(ref)
    assert store.put("ciphertext", b"what a site encrypted") == ref
    assert store.get(ref) == b"what a site encrypted"


def test_a_store_that_does_not_answer_is_named_without_the_secret(bucket: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer is a `StorageError` that names the store and not the secret."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = ArtifactStore(f"s3://{BUCKET}/unreachable")
    store.shelf._filesystem = lambda: _fresh(store.url)  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="s3://cifer-tests/unreachable") as unreachable:
        store.put("model", b"x")
    assert SECRET not in str(unreachable.value)


def _fresh(url: str) -> tuple[object, str]:
    """A driver that was made after the environment changed."""
    import fsspec

    files, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    return files, root


@pytest.mark.parametrize("url", [f"s3://key:{SECRET}@bucket/cifer", f"s3://bucket/cifer?secret={SECRET}"])
def test_credentials_in_a_url_are_refused(url: str) -> None:
    """Settings are published with every run: a URL that holds credentials is refused there and in the store, without being repeated."""
    with pytest.raises(UsageError) as at_store:
        ArtifactStore(url)
    with pytest.raises(ConfigError, match="artifacts") as in_settings:
        parse({"name": "x", "data": {"table": "digits", "target": "digit"}, "artifacts": url}, where="settings")
    assert SECRET not in f"{at_store.value} {in_settings.value}"
