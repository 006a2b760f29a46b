"""The command: quick to answer, plain in what it says, and one page that needs nothing else."""

import base64
import logging
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.__main__ import main
from pipeline.progress import Progress, eta
from storage import Lake
from tests.pipeline.worlds import HARVEST, World

ROOT = Path(pipeline.__file__).parent.parent
STUDY = f"""{HARVEST}
[jobs.shape]
kind = "geometry"
cache = "tiny"
site = "resid.0"
points = {{ kind = "rows" }}
n_points = 300
dimension = {{ k = 50 }}
"""
HEAVY = ("torch", "ray", "transformers", "sklearn", "scipy", "matplotlib")


def imported(code, *arguments):
    """The heavy modules that a process of its own has imported after `code`."""
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('>', *({HEAVY!r} & sys.modules.keys()))", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout.splitlines()[-1].removeprefix(">").split()


def command(*words):
    return f"import sys\nfrom pipeline.__main__ import main\ntry: main({list(words)!r})\nexcept SystemExit: pass"


@pytest.fixture(scope="module")
def done(tmp_path_factory, decoder):
    """A world whose recipe has run: one cache, one study."""
    world = World(tmp_path_factory.mktemp("done"), decoder)
    world.recipe.write_text(STUDY)
    assert world.run() == 0
    return world


@pytest.fixture
def said(capsys):
    """`said(*words)`: the lines that a command prints, once it ended well."""

    def run(*words):
        capsys.readouterr()
        assert main(list(words)) == 0
        return capsys.readouterr().out.splitlines()

    return run


def only(lake):
    """The one cache of a lake."""
    (cache,) = map(lake.cache, lake.caches())
    return cache


def both(world):
    """The one cache and the one artifact of a world."""
    lake = Lake(str(world.lake))
    (artifact,) = map(lake.artifact, lake.artifacts())
    return only(lake), artifact


# --- quick to answer


def test_help_and_ls_import_nothing_heavy(done):
    assert imported(command("--help")) == []
    assert imported(command("ls", str(done.lake))) == []
    assert imported(command("show", str(done.lake), only(Lake(str(done.lake))).id)) == []


def test_a_wrong_recipe_is_refused_before_anything_heavy_is_imported(done):
    assert imported(command("run", str(done.recipe), "--set", "caches.tiny.contxt=3")) == []


def test_opening_a_cache_and_reading_its_first_shuffled_batch_imports_nothing_heavy(done):
    code = """
import sys
from storage import Lake
lake = Lake(sys.argv[1])
cache = lake.cache(lake.caches()[0])
acts = cache.site("resid.0")
batch = next(iter(acts.shuffled(batch=32, seed=0)))
assert batch.shape == (32, acts.d)
assert len(cache.tokens.strings(slice(0, 8))) == 8
"""
    assert imported(code, str(done.lake)) == []


def test_help_answers_in_under_half_a_second():
    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "pipeline", "--help"], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    recipes = ("plan", "run", "status", "report", "harvest", "demo", "nightly", "submit")
    lakes = ("ls", "show", "verify", "repair", "copy", "export", "pin", "retention", "rm", "gc")
    for name in (*recipes, *lakes):
        assert re.search(rf"^\s+{name}\s+\w", told, re.MULTILINE)


# --- plain in what it says


def test_plan_says_what_is_left_and_then_what_is_done(done, tmp_path, decoder, said):
    fresh = World(tmp_path, decoder)
    fresh.recipe.write_text(STUDY)
    cache, taken, job = said("plan", str(fresh.recipe))
    assert re.fullmatch(r" +writes about [\d.,]+ MiB in about [\d,]+ objects; time unknown: .* yet", taken)
    assert re.fullmatch(
        r"to do  tiny +model\.corpus-[0-9a-f]{12}: 1 new files, about [\d,]+ rows, [\d,]+ MiB; "
        r"at most [\d,]+ MiB of memory a worker \(.*\)",
        cache,
    )
    assert re.fullmatch(r"to do  shape +geometry -> geometry-[0-9a-f]{12}", job)
    rows = only(Lake(str(done.lake))).n_rows
    cache, job = said("plan", str(done.recipe))
    assert re.fullmatch(rf"done   tiny +model\.corpus-[0-9a-f]{{12}}: 2 sites x {rows} rows", cache)
    assert job.startswith("done   shape")


def test_a_second_run_says_that_nothing_was_missing(done, said):
    lines = said("run", str(done.recipe))
    assert "nothing was missing: no forward pass, no job" in lines
    assert lines[-1] == f"report: {done.lake}/reports/recipe.html"
    cache, artifact = both(done)
    assert f"tiny: {cache.id}, {cache.n_rows} rows x 2 sites" in lines
    assert f"shape (geometry): {artifact.record.report['headline']}" in lines


def test_status_has_a_line_for_every_site_and_job(done, said):
    cache, artifact = both(done)
    lines = [" ".join(line.split()) for line in said("status", str(done.recipe))]
    assert lines[:5] == [
        f"done tiny {cache.id}",
        f"segment 0 1 files, {cache.n_rows} rows",
        "embed sealed",
        "resid.0 sealed",
        f"done shape geometry -> {artifact.folder.name}",
    ]
    run, harvest, job = lines[5:]
    assert re.fullmatch(r"run \S+, begun \S+ by \S+@\S+: done in [\d.]+ s", run)
    assert re.fullmatch(rf"tiny {cache.n_rows} rows, [\d,]+ tokens/s, 1 workers \d+% busy.*", harvest)
    assert job == f"shape {artifact.record.report['headline']}"


def test_ls_has_a_line_for_every_cache_and_artifact(done, said):
    cache, artifact = both(done)
    lines = [" ".join(line.split()) for line in said("ls", str(done.lake))]
    facts = r"[\d.]+ [KM]iB \d+[smh] \S+@\S+"
    first, second = lines
    assert re.fullmatch(rf"cache {cache.id} {facts} {cache.n_rows} rows float32 embed resid\.0", first)
    headline = re.escape(artifact.record.report["headline"])
    assert re.fullmatch(rf"artifact {artifact.folder.name} {facts} {headline}", second)


def test_show_says_what_a_cache_and_an_artifact_are(done, said):
    cache, artifact = both(done)
    told = "\n".join(said("show", str(done.lake), cache.id))
    for part in (
        str(cache.folder),
        "corpus/*.jsonl",
        "kind=documents",
        "sealed: embed resid.0",
        f"{cache.n_rows} x 32",
    ):
        assert part in told
    told = "\n".join(said("show", str(done.lake), artifact.folder.name))
    assert cache.id in told
    for metric in artifact.record.report["metrics"]:
        assert metric["name"] in told
    for file in artifact.record.files:
        assert file.name in told


def test_verify_has_a_line_for_the_tokens_and_every_site(done, said):
    cache = only(Lake(str(done.lake)))
    lines = [" ".join(line.split()) for line in said("verify", str(done.lake))]
    assert lines[0] == f"cache {cache.id}"
    for site, line in zip(("tokens", "embed", "resid.0"), lines[1:], strict=True):
        assert line.startswith(f"ok segment 0 {site} {cache.n_rows} rows, ")


def test_verify_ends_with_1_and_names_the_object_that_is_damaged(tmp_path, decoder, capsys):
    world = World(tmp_path, decoder)
    world.recipe.write_text(HARVEST)
    assert world.run() == 0
    (shard,) = world.lake.rglob("resid.0/c.0.0")
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    capsys.readouterr()
    assert main(["verify", str(world.lake)]) == 1
    told = capsys.readouterr().out
    assert re.search(r"BAD +segment 0 resid\.0", told)
    assert f"{shard} does not match its checksums in 1 chunks, the first at row 0" in told
    assert re.search(r"ok +segment 0 embed", told)


def test_a_cache_that_a_killed_run_left_half_made_is_listed_shown_and_verified(tmp_path, decoder, said):
    world = World(tmp_path, decoder)
    world.recipe.write_text(HARVEST)
    assert world.run() == 0
    (segment,) = world.lake.rglob("segments/00000")
    (segment.parent / "00001").mkdir()
    shutil.copy(segment / "files.json", segment.parent / "00001")
    cache = only(Lake(str(world.lake)))
    assert len(said("verify", str(world.lake))) == 4
    assert f"{cache.n_rows} rows" in " ".join(said("ls", str(world.lake)))
    assert "tokens not indexed yet" in " ".join(said("status", str(world.recipe)))
    shutil.rmtree(segment)
    (segment.parent / "00001").rename(segment)
    assert len(said("verify", str(world.lake))) == 1
    assert "nothing sealed yet" in " ".join(said("ls", str(world.lake)))
    assert said("show", str(world.lake), cache.id)


def test_harvest_needs_no_recipe_and_reaches_the_cache_that_a_recipe_would(done, said, monkeypatch):
    monkeypatch.chdir(done.folder)
    flags = ("--label", "long", "--dtype", "float32", "--context", "16", "--set", "pool.kind=local")
    lines = said("harvest", "model", "corpus/*.jsonl", "--site", "embed", "--site", "resid.0", *flags)
    cache = only(Lake(str(done.lake)))
    assert lines[0].split() == ["done", "harvest", cache.id]
    assert [line.split() for line in lines[2:]] == [["embed", "sealed"], ["resid.0", "sealed"]]


def test_harvest_of_a_vocabulary_is_an_ordinary_cache(done, said, tmp_path):
    lake = str(tmp_path / "lake")
    flags = ("--lake", lake, "--dtype", "float32", "--set", "pool.kind=local")
    said("harvest", str(done.folder / "model"), "vocabulary", "--site", "embed", *flags)
    cache = only(Lake(lake))
    assert cache.id.startswith("model.vocabulary-")
    assert cache.n_rows == 260


def test_progress_in_a_log_has_tokens_a_second_and_the_time_left(tmp_path, decoder, caplog, monkeypatch):
    monkeypatch.setattr("pipeline.progress._EVERY", -1.0)
    world = World(tmp_path, decoder)
    world.recipe.write_text(HARVEST)
    with caplog.at_level(logging.INFO, "pipeline"):
        assert world.run("caches.tiny.unit=64") == 0
    lines = [record.getMessage() for record in caplog.records if record.name == "pipeline.progress"]
    under_way = [line for line in lines if line.startswith("tiny: 2 sites") and "eta" in line]
    assert len(under_way) > 1
    pattern = r"tiny: 2 sites: [\d,]+ of [\d,]+ rows, [\d,]+ tokens/s, eta \d+:\d\d:\d\d"
    assert all(re.fullmatch(pattern, line) for line in under_way)
    assert re.fullmatch(r"tiny: 2 sites: (\d+) of \1 rows, [\d,]+ tokens/s, in [\d.]+ s", lines[-1])


def test_progress_in_a_terminal_counts_the_same(capsys):
    progress = Progress(live=True)
    meter = progress.meter("tiny", 10, "rows")
    meter.advance(10, forward_tokens=12)
    meter.close("done")
    assert progress.forward_tokens == 12
    assert "10/10 rows" in capsys.readouterr().err


def test_the_time_left_is_at_the_pace_so_far():
    assert eta(10, 1, 4) == "0:00:30"
    assert eta(3600, 1, 3) == "2:00:00"
    assert eta(5, 0, 4) == "unknown"


# --- the page


@pytest.fixture
def page(done, said, tmp_path):
    out = tmp_path / "here" / "page.html"
    assert said("report", str(done.recipe), "--out", str(out)) == [str(out)]
    return out.read_text()


def test_the_page_asks_for_nothing_from_elsewhere(page):
    assert not re.search(r"https?://|//\w+\.\w+|@import|<script|<link|<iframe|url\(", page)
    asked = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert asked
    assert all(one.startswith(("#", "data:image/svg+xml;base64,")) for one in asked)


def test_the_figures_of_the_page_ask_for_nothing_either(page):
    for data in re.findall(r"base64,([A-Za-z0-9+/=]+)", page):
        svg = base64.b64decode(data).decode()
        assert "<svg" in svg
        asked = re.findall(r"""(?:xlink:href|href|src)\s*=\s*["']([^"']*)|url\(([^)]*)\)""", svg)
        assert all((one or other).startswith(("#", "data:")) for one, other in asked)


def test_the_page_holds_every_figure_and_metric_of_every_job(done, page):
    _, artifact = both(done)
    figures = [file for file in artifact.record.files if file.name.startswith("figures/")]
    assert figures
    for file in figures:
        assert base64.b64encode(artifact.read(file.name)).decode() in page
        assert html(file.caption) in page
    for metric in artifact.record.report["metrics"]:
        assert f"<td>{html(metric['name'])}</td>" in page
    assert html(artifact.record.report["headline"]) in page
    assert artifact.folder.name in page


def html(text):
    from markupsafe import escape

    return str(escape(text))


def test_a_report_that_cannot_be_written_says_where(done, capsys):
    assert main(["report", str(done.recipe), "--out", "/proc/here/page.html"]) == 2
    assert "cannot write /proc/here/page.html" in capsys.readouterr().err


def test_a_name_in_a_recipe_cannot_write_into_the_page(done, tmp_path, said):
    """Titles, labels and captions are text, whatever they hold."""
    odd = done.folder / "<b>odd.toml"
    odd.write_text(STUDY)
    out = tmp_path / "page.html"
    said("report", str(odd), "--out", str(out))
    assert "<b>odd" not in out.read_text()
    assert "&lt;b&gt;odd" in out.read_text()
    odd.unlink()
