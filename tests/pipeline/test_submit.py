"""What a submitted job consists of, what is refused before anything is sent, and what the job checks when it starts."""

import datetime
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.portable import _render, portable
from pipeline.recipe import read
from pipeline.submit import NOTE, check_package, named, package, prepare
from storage.errors import InputError, RunError
from tests.pipeline.worlds import World
from workers.one_root import PACKAGES, check_same, code_files, fingerprint, one_root

ROOT = Path(__file__).parents[2]
REMOTE = """
lake = "s3://team/lake"
[models.small]
name = "gpt2"
[corpora.wiki]
files = "s3://corpora/wiki/*.parquet"
[caches.wiki]
model = "small"
corpus = "wiki"
sites = ["resid.6"]
"""


@pytest.fixture
def here(tmp_path, decoder):
    """A world on this machine's disk."""
    return World(tmp_path / "here", decoder)


def made(path, *settings, shared_disk=False, command="run"):
    return prepare(str(path), settings, read(str(path), settings), command, "text", shared_disk)


def sent(path, *settings):
    return portable(str(path), settings, read(str(path), settings))


@pytest.fixture
def remote(tmp_path):
    path = tmp_path / "remote.toml"
    path.write_text(REMOTE)
    return path


def test_a_recipe_means_the_same_wherever_it_is_sent(here, tmp_path):
    settings = ("pool.kind=ray", "caches.tiny.context=8", "pool.address=elsewhere:6379")
    elsewhere = tmp_path / "elsewhere" / "recipe.toml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(sent(here.recipe, *settings).toml)
    one, other = read(str(here.recipe), settings), read(str(elsewhere))
    assert other.lake == one.lake
    assert other.corpora == one.corpora
    assert other.recipe.caches == one.recipe.caches
    assert other.recipe.jobs == one.recipe.jobs
    assert other.recipe.models["tiny"].name == str(here.folder / "model")
    assert other.recipe.pool.address == "auto"


def test_names_and_texts_of_every_kind_survive_being_sent():
    table = {
        "a": 'quotes " and \\ and \n and \t and \x7f and 日本語 🙂',
        "b.c d": {"": [1, -2.5, 1e300, float("inf"), True, [], [["x"]], {"deep": {"er": []}}]},
        "when": datetime.datetime(2026, 11, 23, 1, 2, 3, tzinfo=datetime.UTC),
        "day": datetime.date(2026, 11, 23),
        "hour": datetime.time(3, 30),
    }
    assert tomllib.loads(f"table = {_render(table)}")["table"] == table


def test_a_recipe_of_buckets_and_hub_names_is_sent_as_it_is(remote):
    assert sent(remote).local == ()
    assert made(remote).note.seen is None
    assert tomllib.loads(sent(remote).toml) == tomllib.loads(REMOTE) | {"pool": {"address": "auto"}}


def test_places_on_this_disk_are_refused_by_name_unless_the_cluster_shares_it(here):
    with pytest.raises(InputError, match="add --shared-disk") as caught:
        made(here.recipe, "pool.kind=ray")
    for place in (
        f"lake: {here.lake}",
        f"models.tiny.name: {here.folder}/model",
        f"corpora.words.files: file://{here}",
    ):
        assert place.replace(str(here), str(here.folder)) in str(caught.value)
    assert made(here.recipe, "pool.kind=ray", shared_disk=True).note.seen == str(here.recipe)


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("pool.kind=local", "would run all of it in one process on the head"),
        ("lake=memory://lake", "lives in one process: name a bucket"),
        ("pool.mirror=scratch", "write it as an absolute path"),
        ("lake=s3://key:hunter2@team/lake", "lake holds a password"),
        ("corpora.wiki.files=https://me:hunter2@docs/a.jsonl", "corpora.wiki.files holds a password"),
        (
            'schedule={cron="0 2 * * *", alerts={webhook="https://hooks.example.com/hunter2"}}',
            "schedule.alerts.webhook is an address, which all who use the cluster could read",
        ),
    ],
)
def test_what_cannot_run_or_must_not_be_read_there_is_refused(remote, setting, why):
    with pytest.raises(InputError, match=why) as caught:
        made(remote, setting)
    assert "hunter2" not in str(caught.value)


def test_the_name_of_a_job_follows_from_what_it_is_to_do(remote):
    assert made(remote).name == made(remote).name
    assert made(remote).name.startswith("garner-remote-")
    others = [made(remote, "caches.wiki.context=8"), made(remote, command="nightly")]
    assert len({one.name for one in (made(remote), *others)}) == 3
    assert named(made(remote), "mine").name == "mine"
    with pytest.raises(InputError, match=r"--id is named '\.\./mine'"):
        named(made(remote), "../mine")


def test_a_package_holds_all_code_the_recipe_and_a_note_and_nothing_else(remote, tmp_path):
    path = package(made(remote), tmp_path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    on_disk = {
        file.relative_to(ROOT).as_posix()
        for one in PACKAGES
        for file in (ROOT / one).rglob("*")
        if file.suffix in (".py", ".jinja")
    }
    assert set(names) == on_disk | {NOTE, "remote.toml"}
    assert {f"{one}/__init__.py" for one in PACKAGES} | {"pipeline/page.html.jinja"} <= set(names)
    assert path.stat().st_size < 2**22


def test_the_same_job_is_the_same_package_so_that_a_cluster_keeps_one(remote, tmp_path):
    (tmp_path / "other").mkdir()
    assert package(made(remote), tmp_path).read_bytes() == package(made(remote), tmp_path / "other").read_bytes()


def test_a_package_that_lacks_a_file_is_not_sent(remote, tmp_path):
    submission = made(remote)
    path = package(submission, tmp_path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "less.zip", "w") as less:
        for name in whole.namelist():
            if name != "storage/lake.py":
                less.writestr(name, whole.read(name))
    check_package(path, submission.note.code)
    with pytest.raises(InputError, match="the code changed while it was packed"):
        check_package(tmp_path / "less.zip", submission.note.code)


def test_a_fingerprint_sees_every_byte_and_every_name(tmp_path):
    for one in PACKAGES:
        (tmp_path / one).mkdir()
        (tmp_path / one / "__init__.py").write_text("")
    seen = {fingerprint(tmp_path)}
    (tmp_path / "jobs" / "a.py").write_text("1")
    seen.add(fingerprint(tmp_path))
    (tmp_path / "jobs" / "a.py").write_text("2")
    seen.add(fingerprint(tmp_path))
    (tmp_path / "jobs" / "a.py").rename(tmp_path / "jobs" / "b.py")
    seen.add(fingerprint(tmp_path))
    (tmp_path / "jobs" / "__pycache__").mkdir()
    (tmp_path / "jobs" / "__pycache__" / "b.pyc").write_text("3")
    seen.add(fingerprint(tmp_path))
    assert len(seen) == 4


def test_this_process_imports_one_version_and_says_which(tmp_path):
    assert one_root() == ROOT
    assert len(code_files(ROOT)) > 100
    check_same(fingerprint(ROOT))
    with pytest.raises(RunError, match=f"imports garner .* from {ROOT}, the driver has 0123"):
        check_same("0123")


@pytest.fixture
def unpacked(here, tmp_path):
    """Where a cluster would have unpacked a job that has nothing left to do."""
    here.recipe.write_text('lake = "lake"\n')
    folder = tmp_path / "there"
    with zipfile.ZipFile(package(made(here.recipe, shared_disk=True), tmp_path)) as archive:
        archive.extractall(folder)
    return folder


def started(folder, **more):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "pipeline.entry"]
    return subprocess.run(command, cwd=folder, env=env | more, capture_output=True, text=True, timeout=120, check=False)


def test_a_job_runs_the_code_that_was_sent_and_says_which(unpacked):
    done = started(unpacked)
    assert done.returncode == 0, done.stderr
    assert "nothing was missing" in done.stdout
    assert f"code {fingerprint(ROOT)}, commit" in done.stderr
    assert f"from {unpacked}" in done.stderr


@pytest.mark.parametrize("lost", ["storage", "jobs"])
def test_a_job_that_would_mix_two_versions_ends_with_both_named(unpacked, lost):
    shutil.rmtree(unpacked / lost)
    done = started(unpacked, PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert "two versions of garner would be mixed" in done.stderr
    assert f"{lost} from {ROOT}" in done.stderr
    assert f"pipeline from {unpacked}" in done.stderr


def test_a_job_that_would_run_an_installed_copy_instead_ends(unpacked):
    done = started(unpacked, PYTHONSAFEPATH="1", PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert f"are imported from {ROOT}, not from {unpacked}" in done.stderr


def test_a_job_whose_files_are_not_those_that_were_sent_ends(unpacked):
    (unpacked / "jobs" / "extra.py").write_text("")
    done = started(unpacked)
    assert done.returncode == 1
    assert f"the driver has {fingerprint(ROOT)}" in done.stderr


def test_a_job_that_does_not_see_the_disk_it_was_promised_ends_as_wrong_input(unpacked, here):
    here.recipe.unlink()
    done = started(unpacked)
    assert done.returncode == 2
    assert f"this machine does not see {here.recipe}" in done.stderr


def test_submit_refuses_wrong_input_with_exit_code_2_and_no_cluster(here, remote, capsys):
    address = ("--address", "127.0.0.1:1")
    assert main(["submit", str(here.folder / "none.toml"), *address]) == 2
    assert main(["submit", str(here.recipe), *address, "--set", "pool.kind=ray"]) == 2
    assert main(["submit", str(remote), "--address", "ray://head:10001"]) == 2
    assert main(["submit", str(remote), *address]) == 2
    said = capsys.readouterr().err
    for line in ("there is no recipe", "--shared-disk", "Ray Client", "no job server answers at http://127.0.0.1:1"):
        assert line in said
