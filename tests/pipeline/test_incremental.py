"""A run makes what is missing and nothing else: a site, a file of documents, a job."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jobs
from pipeline.__main__ import main
from pipeline.build import build
from pipeline.progress import Progress
from pipeline.run import _cache_run, run, survey
from storage import InputError, Lake
from tests.pipeline import tiny
from workers.harvest import UnitReceipt, UnitTask
from workers.pool import LocalPool

MORE = ("documents of another day", "", "a second one " * 9)
STUDY = '''"""Counts the rows of a cache."""

from jobs.core.context import Metric, Read, Report
from storage.value import Value


class Config(Value):
    cache: str
    scale: float = 1.0


def reads(config):
    return (Read(cache=config.cache),)


def run(config, ctx):
    n_rows = config.scale * ctx.cache(config.cache).n_rows
    return Report(headline=f"{n_rows} rows", metrics=(Metric(name="rows", value=n_rows),))
'''


@pytest.fixture
def pool(monkeypatch):
    """The pool that runs take, with their tasks and receipts."""
    recording = tiny.RecordingPool()
    monkeypatch.setattr("pipeline.run.make_pool", lambda table, lake: recording)
    return recording


@pytest.fixture
def recipe(decoder, texts, short_shards):
    return tiny.table(decoder, texts, unit=64, sites=["embed", "resid.1"])


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """A job of kind `counting`, in a folder of its own."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "counting.py").write_text(STUDY)
    monkeypatch.setattr(jobs, "__path__", [*jobs.__path__, str(tmp_path / "studies")])
    yield {"kind": "counting", "cache": "texts"}
    sys.modules.pop("jobs.counting", None)


def with_sites(recipe, *sites):
    return recipe | {"caches": {"texts": recipe["caches"]["texts"] | {"sites": list(sites)}}}


def state(folder):
    """Every object of the caches and artifacts below a folder: what it is, when it was made, and its bytes."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and not {"runs", "leases"} & {*path.parts}]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def assert_only_added(before, after):
    """The paths that are new, once it is known that nothing else changed."""
    assert {path: after[path] for path in before} == before
    return set(after) - set(before)


class TestSites:
    def test_an_added_site_is_harvested_alone(self, recipe, texts, pool):
        tiny.harvest(recipe, texts)
        before = state(texts / "lake")
        pool.tasks.clear()
        pool.receipts.clear()
        cache, progress = tiny.harvest(with_sites(recipe, "embed", "resid.0", "resid.1"), texts)
        assert {type(task) for task in pool.tasks} == {UnitTask}
        assert {tuple(map(str, task.sites)) for task in pool.tasks} == {("resid.0",)}
        assert progress.forward_tokens == sum(receipt.forward_tokens for receipt in pool.receipts) > cache.n_rows
        added = assert_only_added(before, state(texts / "lake"))
        assert all("resid.0" in str(path) for path in added)
        assert list(map(str, cache.sites)) == ["embed", "resid.0", "resid.1"]

    def test_a_site_added_later_has_the_bytes_it_would_have_had(self, recipe, texts, in_memory, tmp_path):
        tiny.harvest(recipe, texts)
        later, _ = tiny.harvest(with_sites(recipe, "resid.0"), texts)
        at_once, _ = tiny.harvest(with_sites(recipe, "embed", "resid.0", "resid.1") | {"lake": in_memory}, texts)
        np.testing.assert_array_equal(later.site("resid.0")[:], at_once.site("resid.0")[:])

    def test_a_site_left_out_of_the_recipe_stays_in_the_cache(self, recipe, texts, pool):
        tiny.harvest(recipe, texts)
        cache, progress = tiny.harvest(with_sites(recipe, "embed"), texts)
        assert list(map(str, cache.sites)) == ["embed", "resid.1"]
        assert progress.forward_tokens == 0


class TestFiles:
    def test_an_added_file_is_harvested_alone_as_a_new_segment(self, recipe, texts, pool, decoder):
        n_rows, before = tiny.harvest(recipe, texts)[0].n_rows, state(texts / "lake")
        pool.tasks.clear()
        pool.receipts.clear()
        tiny.write_texts(texts / "docs" / "b.jsonl", MORE)
        cache, progress = tiny.harvest(recipe, texts)
        assert len(cache.segments) == 2
        assert all("segments/00001" in str(path) for path in assert_only_added(before, state(texts / "lake")))
        assert pool.tasks == [0, *(UnitTask(unit=n, sites=cache.sites) for n in range(cache.segments[1].plan.n_units))]
        assert cache.n_rows == n_rows + sum(map(len, MORE))
        units = [receipt for receipt in pool.receipts if isinstance(receipt, UnitReceipt)]
        assert progress.forward_tokens == sum(unit.forward_tokens for unit in units) < 2 * sum(map(len, MORE))
        expected = tiny.expected_rows(decoder, cache)
        for site in cache.sites:
            assert tiny.worst(cache.site(site)[:], expected[str(site)]) <= 1e-5
        assert list(cache.tokens.document_ids[-3:]) == ["b.jsonl:0", "b.jsonl:1", "b.jsonl:2"]
        assert cache.tokens.documents(np.array([n_rows])) == len(tiny.TEXTS)

    def test_a_site_and_a_file_added_together_are_made_in_every_segment(self, recipe, texts, decoder):
        tiny.harvest(recipe, texts)
        tiny.write_texts(texts / "docs" / "b.jsonl", MORE)
        cache, _ = tiny.harvest(with_sites(recipe, "embed", "resid.0"), texts)
        assert {str(site): len(cache.sealed_segments(site)) for site in cache.sites} == {
            "embed": 2, "resid.0": 2, "resid.1": 1,
        }  # fmt: skip
        expected = tiny.expected_rows(decoder, cache)
        assert tiny.worst(cache.site("resid.0")[:], expected["resid.0"]) <= 1e-5

    def test_a_changed_file_is_refused(self, recipe, texts):
        tiny.harvest(recipe, texts)
        before, path = state(texts / "lake"), texts / "docs" / "a.jsonl"
        path.write_text(path.read_text().replace("the last one", "the lost one"))
        with pytest.raises(InputError, match=r"a\.jsonl changed after cache .* caches never change"):
            run(tiny.read(recipe, texts), Progress(live=False))
        assert state(texts / "lake") == before

    def test_a_file_that_was_only_touched_is_the_same_file(self, recipe, texts, pool):
        tiny.harvest(recipe, texts)
        pool.tasks.clear()
        os.utime(texts / "docs" / "a.jsonl")
        tiny.harvest(recipe, texts)
        assert pool.tasks == []

    def test_rows_of_a_removed_file_stay(self, recipe, texts):
        tiny.write_texts(texts / "docs" / "b.jsonl", MORE)
        n_rows = tiny.harvest(recipe, texts)[0].n_rows
        (texts / "docs" / "b.jsonl").unlink()
        cache, progress = tiny.harvest(recipe, texts)
        assert (cache.n_rows, progress.forward_tokens) == (n_rows, 0)
        assert survey(tiny.read(recipe, texts))[1][0].facts.gone == 1

    def test_a_new_file_of_empty_documents_is_taken_and_adds_no_row(self, recipe, texts, pool):
        x_ND = tiny.harvest(recipe, texts)[0].site("resid.1")[:].copy()
        tiny.write_texts(texts / "docs" / "b.jsonl", ("", ""))
        cache, _ = tiny.harvest(recipe, texts)
        assert (cache.n_rows, cache.tokens.n_documents) == (len(x_ND), len(tiny.TEXTS) + 2)
        np.testing.assert_array_equal(cache.site("resid.1")[:], x_ND)
        pool.tasks.clear()
        tiny.write_texts(texts / "docs" / "c.jsonl", MORE)
        cache, _ = tiny.harvest(recipe, texts)
        assert cache.site("resid.1").shape[0] == cache.n_rows == len(x_ND) + sum(map(len, MORE))

    def test_a_corpus_without_a_single_token_fails_until_a_file_has_one(self, decoder, tmp_path):
        recipe = tiny.table(decoder, tmp_path, sites=["embed"])
        tiny.write_texts(tmp_path / "docs" / "a.jsonl", ("", ""))
        for _ in range(2):
            with pytest.raises(InputError, match="2 documents have no row at all"):
                run(tiny.read(recipe, tmp_path), Progress(live=False))
        tiny.write_texts(tmp_path / "docs" / "b.jsonl", MORE)
        assert tiny.harvest(recipe, tmp_path)[0].n_rows == sum(map(len, MORE))

    def test_a_run_planned_before_another_took_the_files_does_not_take_them_again(self, recipe, texts):
        opened = tiny.read(recipe, texts)
        (step,) = survey(opened)[1]
        n_rows = tiny.harvest(recipe, texts)[0].n_rows
        build(_cache_run(opened, step), Lake(opened.lake), LocalPool(), Progress(live=False))
        cache = Lake(opened.lake).cache(step.facts.folder)
        assert len(cache.segments) == 1
        assert cache.n_rows == n_rows


class TestAgain:
    def test_a_second_run_does_no_forward_pass_and_says_so(self, recipe, texts, pool, capsys):
        path = tiny.write_recipe(recipe, texts)
        assert main(["run", path]) == 0
        assert "tokens went through models, 0 jobs ran" in capsys.readouterr().out
        before, ran = state(texts / "lake"), len(pool.tasks)
        assert main(["run", path]) == 0
        assert "nothing was missing: no forward pass, no job" in capsys.readouterr().out
        assert state(texts / "lake") == before
        assert len(pool.tasks) == ran > 0

    def test_a_second_run_starts_no_ray(self, decoder, texts):
        recipe = tiny.table(decoder, texts, sites=["embed"])
        tiny.harvest(recipe, texts)
        path = tiny.write_recipe(recipe | {"pool": {}}, texts)
        code = f"import sys; from pipeline.__main__ import main; print(main(['run', {path!r}]), 'ray' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=True)
        assert done.stdout.splitlines()[-1] == "0 False", done.stderr


class TestJobs:
    def test_a_job_is_fitted_again_only_when_its_inputs_change(self, recipe, texts, counting):
        recipe = recipe | {"jobs": {"count": counting}}

        def fitted(changed=recipe):
            return [receipt.headline for receipt in run(tiny.read(changed, texts), Progress(live=False)).jobs]

        rows = len(tiny.expected_tokens(tiny.TEXTS, affixes=False))
        assert fitted() == [f"{float(rows)} rows"]
        assert fitted() == []
        assert fitted(recipe | {"pool": {"kind": "local", "batch_tokens": 7}}) == []
        assert fitted(recipe | {"jobs": {"other-name": counting}}) == []
        assert fitted(recipe | {"jobs": {"count": counting | {"scale": 2.0}}}) == [f"{2.0 * rows} rows"]
        tiny.write_texts(texts / "docs" / "b.jsonl", MORE)
        assert fitted() == [f"{float(rows + sum(map(len, MORE)))} rows"]
        assert fitted() == []
        assert len(Lake(str(texts / "lake")).artifacts()) == 3
