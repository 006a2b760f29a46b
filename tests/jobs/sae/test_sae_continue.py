"""An `sae` that continues starts from the weights of its last artifact and sees the new rows alone."""

import msgspec
import numpy as np
import pytest

from jobs import sae
from jobs.core.context import Context
from storage import Artifact, Cache
from storage.artifact import ArtifactWriter, Input, Record, versions
from storage.site import Site
from tests.conftest import Doc, build_cache

WIDTH, DOCUMENTS, WORDS = 24, 120, 12


def planted(seed, n_rows, atoms_FD):
    """Rows that are sparse sums of a few atoms."""
    rng = np.random.default_rng(seed)
    codes_NF = (rng.random((n_rows, len(atoms_FD))) < 2 / len(atoms_FD)) * rng.uniform(0.5, 2, (n_rows, len(atoms_FD)))
    return (codes_NF @ atoms_FD + 0.01 * rng.standard_normal((n_rows, atoms_FD.shape[1]))).astype(np.float32)


@pytest.fixture(scope="module")
def atoms():
    atoms_FD = np.random.default_rng(0).standard_normal((WIDTH, 12))
    return atoms_FD / np.linalg.norm(atoms_FD, axis=1, keepdims=True)


@pytest.fixture
def cache(lake, atoms):
    """Two segments of as many documents."""
    rows = planted(1, 2 * DOCUMENTS * WORDS, atoms)
    segments = [
        [Doc(" ".join(["word"] * WORDS), key=f"{segment}:{n}") for n in range(DOCUMENTS)] for segment in range(2)
    ]
    return build_cache(lake, {"resid.0": rows}, segments)


@pytest.fixture
def fit(lake, cache):
    """`fit(first, stop, previous)`: the report and the artifact of a job that sees those segments."""

    def run(first, stop, previous=None, **more):
        config = sae.Config(
            cache="c", site=Site.parse("resid.0"), width=WIDTH, activation=sae.TopK(k=2), batch=128, **more
        )
        shown = Cache(cache.folder).restricted(first, stop, [config.site])
        writer = ArtifactWriter(lake.artifact_folder(f"sae-{first}{stop}{bool(previous)}{more.get('epochs')}"))
        report = sae.run(config, Context({"c": shown}, writer, "cpu", previous))
        writer.close(
            Record(
                kind="sae",
                id=writer.folder.name[4:],
                config=msgspec.to_builtins(config, enc_hook=str),
                inputs={"c": Input(cache=cache.id, first=first, segments=stop, sites=("resid.0",))},
                report=msgspec.to_builtins(report),
                files=writer.files,
                versions=versions(),
                seconds=0.0,
                previous=previous.folder.name if previous else "",
            )
        )
        return report, Artifact(writer.folder)

    return run


def fvu(report):
    return next(metric.value for metric in report.metrics if metric.name == "fvu")


def test_it_starts_from_the_weights_of_the_last_artifact(fit):
    _, first = fit(0, 1, epochs=4)
    _, second = fit(1, 2, first, epochs=1, lr=1e-12)
    old, new = (sae.load(artifact).arrays() for artifact in (first, second))
    for name in old:
        np.testing.assert_allclose(new[name], old[name], atol=1e-6)
    _, fresh = fit(1, 2, epochs=1, lr=1e-12)
    assert np.abs(sae.load(fresh).arrays()["W_dec"] - old["W_dec"]).max() > 0.1


def test_it_learns_from_the_new_rows_and_keeps_what_it_knew(fit):
    before, first = fit(0, 1, epochs=12)
    after, _ = fit(1, 2, first, epochs=2)
    fresh, _ = fit(1, 2, epochs=2)
    assert fvu(after) <= fvu(before) * 1.1
    assert fvu(after) < 0.8 * fvu(fresh)


def test_it_sees_the_new_segments_alone_and_is_measured_on_held_out_documents_of_them(fit):
    _, first = fit(0, 1, epochs=1)
    report, second = fit(1, 2, first, epochs=1)
    trained, measured = (int(word) for word in report.notes[0].split() if word.isdigit() and int(word) > 1)
    assert trained + measured == DOCUMENTS * WORDS
    assert 0.03 < measured / (DOCUMENTS * WORDS) < 0.2
    assert f"Went on from the weights and the scale of {first.folder.name}" in report.notes[1]
    assert second.record.previous == first.folder.name


def test_the_same_continuation_gives_the_same_bits(fit, lake, cache):
    _, first = fit(0, 1, epochs=1)
    weights = fit(1, 2, first, epochs=1)[1].read("weights.safetensors")
    lake.folder.remove(f"artifacts/sae-12{True}1")
    assert fit(1, 2, first, epochs=1)[1].read("weights.safetensors") == weights
