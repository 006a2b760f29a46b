"""Against a real S3 server, through a proxy that breaks what networks and busy stores break."""

import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from storage import InputError, Lake, RunError
from storage.url import Folder, proves_exclusive
from tests.s3.proxy import Cut, Hang, Lose, Refuse, Shorten, SlowDown, scripted, stormy

pytestmark = pytest.mark.s3

ROOT = Path(__file__).resolve().parents[2]
FAULTS = (SlowDown(), Hang(2), Refuse(), Lose(), Cut(500))
BODY = os.urandom(100_000)


@pytest.fixture
def folder(bucket, proxy):
    """A folder behind the proxy, with one object in it."""
    folder = Folder.at(f"{bucket}/lake")
    folder.create("whole", BODY)
    proxy.requests.clear()
    return folder


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("storage.remote.PATIENCE", 0.5)
    monkeypatch.setattr("storage.remote.FIRST_PATIENCE", 0.5)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
class TestFaults:
    """Each of them, once or twice in a row, changes nothing but the time that it takes."""

    def test_reads_and_ranges_come_whole(self, fault, folder, proxy):
        proxy.choose = scripted(fault, fault)
        assert folder.read("whole") == BODY
        proxy.choose = scripted(fault, fault)
        assert folder.ranges([("whole", n, n + 1000) for n in range(9)]) == [BODY[n : n + 1000] for n in range(9)]
        assert len(proxy.spoilt) == 4

    def test_lists_and_looks_are_right(self, fault, folder, proxy):
        proxy.choose = scripted(fault, fault)
        assert folder.names() == ("whole",)
        proxy.choose = scripted(fault)
        assert folder.exists("whole")
        proxy.choose = scripted(fault)
        assert not folder.exists("nothing")

    def test_an_object_is_created_once_and_whole(self, fault, folder, proxy):
        proxy.choose = scripted(fault, on="PUT")
        folder.create("new", BODY[::-1])
        assert proxy.spoilt == [fault]
        assert folder.read("new") == BODY[::-1]
        assert folder.create("new", b"other") is False
        assert folder.read("new") == BODY[::-1]

    def test_a_removed_object_is_gone(self, fault, folder, proxy):
        proxy.choose = scripted(fault, on="POST")
        folder.remove("whole")
        assert not folder.exists("whole")

    def test_a_copy_is_whole(self, fault, folder, proxy, tmp_path):
        proxy.choose = scripted(fault, fault)
        assert folder.kept("whole", str(tmp_path)).read_bytes() == BODY


def test_a_creation_whose_answer_was_lost_is_told_as_made_before_and_is_whole(folder, proxy):
    proxy.choose = scripted(Lose(), on="PUT")
    assert folder.create("mark", b"ours") is False
    assert proxy.count("^PUT") == 2
    assert folder.read("mark") == b"ours"


def test_a_creation_that_never_reached_the_server_is_ours(folder, proxy):
    proxy.choose = scripted(SlowDown(), Refuse(), on="PUT")
    assert folder.create("mark", b"ours") is True


def test_a_store_that_stays_busy_ends_the_request_with_what_to_do(folder, proxy, impatient):
    proxy.choose = lambda request: SlowDown()
    for request in (
        lambda: folder.read("whole"),
        lambda: folder.names(),
        lambda: folder.create("new", b"x"),
        lambda: folder.ranges([("whole", 0, 10)]),
    ):
        began = time.monotonic()
        with pytest.raises(RunError, match=r"s3://.*/lake.* gave no answer .*SlowDown.*run again when it does"):
            request()
        assert time.monotonic() - began < 5


def test_a_server_that_goes_away_is_waited_for(folder, proxy):
    with ThreadPoolExecutor(1) as pool:
        with proxy.down():
            reading = pool.submit(folder.read, "whole")
            time.sleep(1)
            assert not reading.done()
        assert reading.result() == BODY


def test_a_server_that_stays_away_is_no_fault_of_the_users(folder, proxy, impatient):
    with proxy.down(), pytest.raises(RunError, match=r"EndpointConnectionError.*what is whole stays"):
        folder.read("whole")


@pytest.mark.parametrize("length", [0, 99, 99_999])
def test_a_server_that_answers_short_is_not_believed(length, folder, proxy, tmp_path, impatient):
    proxy.choose = scripted(Shorten(length), on="GET")
    with pytest.raises(RunError, match=f"whole is damaged: bytes 0 to 100000 were wanted, {length} of them are there"):
        folder.ranges([("whole", 0, len(BODY))])
    proxy.choose = scripted(Shorten(length), on="GET")
    assert folder.kept("whole", str(tmp_path)).read_bytes() == BODY


def test_a_folder_of_more_names_than_one_answer_holds_is_listed_whole(folder, proxy):
    names = [f"many/{n:05}" for n in range(1100)]
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda name: folder.create(name, b"x"), names))
    proxy.choose = scripted(SlowDown(), Refuse(), on="list-type")
    assert folder.names("many") == tuple(name.removeprefix("many/") for name in names)
    assert folder.create("many/01100", b"x")
    assert len(folder.names("many")) == 1101


def test_ranges_are_many_at_once_over_few_connections(folder, proxy):
    proxy.latency = 0.1
    began = time.monotonic()
    folder.ranges([("whole", n, n + 100) for n in range(200)])
    assert time.monotonic() - began < 10  # one after the other: 20 s
    assert proxy.count("GET") == 200


def test_whole_objects_cost_one_request(folder, proxy):
    folder.read("whole")
    assert proxy.requests == [f"GET /{folder.url.removeprefix('s3://')}/whole"]


def test_a_storm_changes_no_byte(folder, proxy, hasty):
    bodies = {f"s/{n}": os.urandom(20_000) for n in range(20)}
    proxy.choose = stormy(0.2, seed=1, hang=1.2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: folder.create(name, bodies[name]), bodies))
    wanted = [(name, 100, 15_000) for name in bodies]
    assert folder.ranges(wanted) == [bodies[name][100:15_000] for name, *_ in wanted]
    assert folder.names("s") == tuple(sorted(name.removeprefix("s/") for name in bodies))
    assert len(proxy.spoilt) > 5
    assert proves_exclusive(folder)


class TestKept:
    def test_the_second_use_asks_for_nothing(self, folder, proxy, tmp_path):
        folder.kept("whole", str(tmp_path))
        asked = len(proxy.requests)
        with proxy.down():
            assert folder.kept("whole", str(tmp_path)).read_bytes() == BODY
        assert len(proxy.requests) == asked

    def test_fsspecs_own_simplecache_reads_the_copy(self, folder, proxy, tmp_path):
        folder.kept("whole", str(tmp_path))
        asked = len(proxy.requests)
        cache = {"cache_storage": str(tmp_path / "s3")}
        with fsspec.open(f"simplecache::{folder.url}/whole", simplecache=cache) as file:
            assert file.read() == BODY
        assert len(proxy.requests) == asked

    def test_many_who_ask_at_once_fetch_it_once(self, folder, proxy, tmp_path):
        with ThreadPoolExecutor(8) as pool:
            paths = set(pool.map(lambda _: folder.kept("whole", str(tmp_path)), range(8)))
        assert len(paths) == 1
        assert proxy.count("GET") == 1

    def test_a_process_killed_while_it_fetches_leaves_nothing_that_is_taken_for_whole(self, folder, proxy, tmp_path):
        body = os.urandom(4 * 2**20)
        folder.create("large", body)
        proxy.requests.clear()
        proxy.choose = scripted(Hang(60), on="GET .*large")
        program = f"from storage.url import Folder; Folder({folder.url!r}).kept('large', {str(tmp_path)!r})"
        with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as process:
            until = time.monotonic() + 60
            while not proxy.count("GET .*large") and time.monotonic() < until:
                time.sleep(0.01)
            process.kill()
        left = [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".")]
        assert left == []
        assert folder.kept("large", str(tmp_path)).read_bytes() == body

    def test_a_copy_left_half_written_by_a_kill_is_no_copy(self, folder, tmp_path):
        name = hashlib.sha256(f"{folder.url.removeprefix('s3://')}/whole".encode()).hexdigest()
        (tmp_path / "s3").mkdir()
        (tmp_path / "s3" / f".{name}.0123.tmp").write_bytes(BODY[:10])
        path = folder.kept("whole", str(tmp_path))
        assert (path.name, path.read_bytes()) == (name, BODY)

    def test_copies_are_kept_on_this_machine_only(self, folder):
        with pytest.raises(InputError, match="name a folder on this machine's disk"):
            folder.kept("whole", "memory://keep")


class TestBadInput:
    """Refused at the first request, with what to do, and nothing secret."""

    def test_a_bucket_that_is_not_there(self, s3_server):
        lake = Lake("s3://no-such-bucket/lake")
        for request in (lake.check_writable, lake.caches):
            with pytest.raises(InputError, match=r"s3://no-such-bucket/lake.*no such bucket; create it, or name"):
                request()

    def test_a_name_that_no_bucket_can_have(self, s3_server):
        with pytest.raises(InputError, match=r"cannot be asked \(ParamValidationError\)"):
            Lake("s3://no such bucket/lake").check_writable()

    @pytest.mark.parametrize("wrong", ["key", "secret"])
    def test_credentials_that_are_wrong(self, wrong, s3_server, bucket, monkeypatch):
        right = {"key": s3_server.key, "secret": s3_server.secret}
        given = right | {wrong: "nobodys-at-all"}
        monkeypatch.setitem(fsspec.config.conf, "s3", given)
        lake = Lake(f"{bucket}/lake")
        for request in (
            lake.check_writable,
            lake.caches,
            lambda: lake.folder.read("a"),
            lambda: lake.folder.exists("a"),
        ):
            with pytest.raises(
                InputError, match=r"the store refuses \((InvalidAccess|Signature|403).*check the cred"
            ) as e:
                request()
            assert not any(value in str(e.value) for value in given.values())

    def test_no_credentials_at_all(self, bucket, monkeypatch, tmp_path):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]})
        with pytest.raises(InputError, match=r"cannot be asked \(NoCredentialsError\).*AWS_ACCESS_KEY_ID"):
            Lake(f"{bucket}/lake").check_writable()

    @pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://nowhere.invalid:80"])
    def test_an_endpoint_where_nothing_answers(self, endpoint, s3_server, monkeypatch, impatient):
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": endpoint})
        with pytest.raises(InputError, match=r"nothing answers at http://[a-z0-9.]*:\d+ \(.*AWS_ENDPOINT_URL"):
            Lake(f"s3://never-answered-{len(endpoint)}/lake").check_writable()

    def test_an_endpoint_that_is_no_address(self, s3_server, monkeypatch):
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": "nonsense"})
        with pytest.raises(InputError, match=r"cannot be asked \(ValueError\).*AWS_ENDPOINT_URL"):
            Lake("s3://bucket/lake").check_writable()


def test_a_forked_process_has_connections_of_its_own(bucket, s3_server):
    program = f"""
import os
from storage.url import Folder
folder = Folder({bucket!r})
folder.create("parents", b"before")
if child := os.fork():
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert folder.read("childs") == b"after"
else:
    assert folder.read("parents") == b"before"
    folder.create("childs", b"after")
    os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_bodies_past_what_one_part_of_s3fs_holds_are_created_exclusively(folder, proxy):
    large = bytes(101 * 2**20)  # twice 50 MiB is where s3fs would cut it into parts
    assert folder.create("large", large)
    assert not folder.create("large", b"other")
    assert proxy.count("^PUT .*large$") == 2
    assert proxy.count("uploads") == 0
    assert folder.ranges([("large", len(large) - 10, len(large))]) == [bytes(10)]
