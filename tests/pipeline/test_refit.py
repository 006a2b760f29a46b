"""What a job sees when its cache has grown: every segment, the newest alone, or what its last artifact did not see."""

import pytest

from pipeline.__main__ import main
from pipeline.progress import Progress
from pipeline.recipe import read
from pipeline.run import run, survey
from pipeline.work import JobTask
from storage import InputError, Lake
from storage.value import identity
from tests.pipeline.nights import Nights, install, tally


@pytest.fixture
def grown(tmp_path, decoder, monkeypatch):
    """`grown(refit, names)` adds files and runs: the step, and what its artifact says."""
    install(tmp_path, monkeypatch)
    world = Nights(tmp_path, decoder)
    plain = world.recipe.read_text()

    def grow(refit, *names, lake="lake"):
        for name in names:
            world.add(name, name * 10)
        world.recipe.write_text(plain + tally("count", refit))
        opened = read(str(world.recipe), [f"lake={lake}"])
        run(opened, Progress(live=False))
        step = survey(opened)[1][1]
        assert step.done
        return step, Lake(opened.lake).artifact(step.artifact).record

    return grow


def window(record):
    (seen,) = record.inputs.values()
    return seen.first, seen.segments


class TestWindows:
    def test_all_sees_every_segment(self, grown):
        assert [window(grown("all", name)[1]) for name in "abc"] == [(0, 1), (0, 2), (0, 3)]

    def test_newest_sees_the_last_segment(self, grown):
        records = [grown("newest", name)[1] for name in "abc"]
        assert [window(record) for record in records] == [(0, 1), (1, 2), (2, 3)]
        assert [record.report["metrics"][1]["value"] for record in records] == [10, 10, 10]

    def test_continue_sees_what_its_last_artifact_did_not_and_names_it(self, grown):
        steps, records = zip(*[grown("continue", *names) for names in ("a", "b", "cd")], strict=True)
        assert [window(record) for record in records] == [(0, 1), (1, 2), (2, 3)]
        assert [record.previous for record in records] == ["", steps[0].artifact, steps[1].artifact]
        assert [record.report["metrics"][0]["value"] for record in records] == [10, 20, 40]

    def test_continue_that_missed_segments_sees_all_of_them(self, grown):
        first = grown("continue", "a")[0]
        grown("all", "b")
        grown("all", "c")
        record = grown("continue")[1]
        assert (window(record), record.previous) == ((1, 3), first.artifact)

    def test_continue_starts_fresh_where_only_other_refits_have_artifacts(self, grown):
        grown("all", "a")
        record = grown("continue", "b")[1]
        assert (window(record), record.previous) == ((0, 2), "")

    def test_continue_has_nothing_to_do_when_nothing_is_new(self, grown):
        step = grown("continue", "a")[0]
        assert grown("continue")[0] == step

    def test_the_ends_of_a_series_do_not_mix_with_those_of_another_lake_or_configuration(self, grown, tmp_path):
        grown("continue", "a")
        step, record = grown("continue", "b", lake="other")
        assert (window(record), record.previous) == ((0, 1), "")
        assert step.artifact != grown("continue")[0].artifact


class TestIdentity:
    def test_all_is_what_it_was_before_there_were_others(self, grown):
        step, record = grown("all", "a")
        (seen,) = record.inputs.values()
        inputs = [[seen.cache, 0, 1, sorted(seen.sites)]]
        known = identity({"kind": "tally", "config": {"cache": seen.cache}, "inputs": inputs})
        assert step.artifact == f"tally-{known}"
        assert len({grown(refit)[0].artifact for refit in ("all", "newest", "continue")}) == 3

    def test_a_task_of_before_goes_on_from_nothing(self):
        assert JobTask(name="n", kind="k", config={}, inputs={}, artifact="a", lake="l").previous == ""


class TestRefused:
    @pytest.mark.parametrize(("kind", "more"), [("probe", ""), ("geometry", 'site = "embed"')])
    def test_continue_is_refused_by_a_job_that_cannot(self, tmp_path, decoder, capsys, kind, more):
        table = f'[jobs.study]\nkind = "{kind}"\ncache = "tiny"\nrefit = "continue"\n{more}\n'
        world = Nights(tmp_path, decoder, tables=table)
        world.add("a", "words")
        assert main(["plan", str(world.recipe)]) == 2
        assert (
            f"jobs.study.refit = 'continue': a job of kind '{kind}' takes one of all, newest" in capsys.readouterr().err
        )

    def test_an_unknown_refit_is_refused_with_what_there_is(self, tmp_path, decoder):
        table = '[jobs.dictionary]\nkind = "sae"\ncache = "tiny"\nsite = "embed"\nrefit = "oldest"\n'
        world = Nights(tmp_path, decoder, tables=table)
        world.add("a", "words")
        with pytest.raises(InputError, match=r"jobs\.dictionary\.refit = 'oldest': .* all, newest, continue"):
            survey(read(str(world.recipe)))
