"""Corpora: decoded strictly, surveyed before anything starts, read as documents; every bad input has its message."""

import gzip
import hashlib
import json
import os
import pickle
import subprocess
import sys

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from pipeline.corpus import Corpus, Files, Hub, Images, Vocabulary, decode, name, source
from pipeline.readers import read
from pipeline.survey import CorpusFacts, digest, parts, survey
from storage.errors import InputError, RunError
from storage.manifest import SourceFile
from storage.value import identity
from workers.document import Ids, Image, Messages, Text

PNG = b"\x89PNG\r\n\x1a\n"


def texts(corpus: Corpus, base) -> dict[str, object]:
    """Surveyed and read: content by key, in order."""
    whole = source(corpus, base)
    return {document.key: document.content for document in read(whole, survey(whole).files)}


def plain(corpus: Corpus, base) -> dict[str, str]:
    return {key: content.text for key, content in texts(corpus, base).items()}


def refused(corpus: Corpus, base, match: str) -> None:
    """Refused while planning, as the user's mistake."""
    with pytest.raises(InputError, match=match):
        survey(source(corpus, base))


def broken(corpus: Corpus, base, match: str) -> None:
    """Refused as damage, at the latest while reading."""
    with pytest.raises(RunError, match=match):
        texts(corpus, base)


def jsonl(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


# --- what a recipe says


@pytest.mark.parametrize(
    ("table", "corpus"),
    [
        ({"files": "*.txt"}, Files(files="*.txt")),
        ({"files": "*.jsonl", "text": "body", "labels": ["a"]}, Files(files="*.jsonl", text="body", labels=("a",))),
        ({"hub": "a/b", "split": "test"}, Hub(hub="a/b", split="test")),
        ({"images": "*.png"}, Images(images="*.png")),
        ({"vocabulary": True}, Vocabulary(vocabulary=True)),
    ],
)
def test_a_table_is_the_corpus_that_its_key_names(table, corpus):
    assert decode(table, "corpora.wiki") == corpus


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, r"corpora\.wiki needs exactly one of files, hub, images, vocabulary, found only an empty table"),
        ({"text": "a"}, "found only text"),
        ({"files": "a", "hub": "b"}, "found files and hub"),
        ({"files": "a", "colour": 1}, r"corpora\.wiki: .*unknown field `colour`"),
        ({"files": 3}, r"corpora\.wiki\.files: Expected `str`, got `int`"),
        ({"files": "a", "split": "word"}, r"corpora\.wiki\.split: Invalid enum value 'word'"),
        ({"files": "a", "text": "t", "messages": "m"}, "found text and messages: keep one"),
        ({"files": "a", "labels": ["x", "x"]}, "labels must differ"),
        ({"images": "a", "labels": ["length"]}, "label 'length' is the name of a column"),
        ({"hub": "a", "labels": ["key"]}, "label 'key' is the name of a column"),
        ({"vocabulary": False}, "vocabulary is true or not there at all"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_its_path(table, message):
    with pytest.raises(InputError, match=message):
        decode(table, "corpora.wiki")


@pytest.mark.parametrize(
    ("corpus", "own"),
    [
        (Files(files="s3://corpora/wiki/*.parquet"), "wiki"),
        (Files(files="s3://corpora/wiki/2026-*/part.jsonl.gz"), "wiki"),
        (Files(files="file:///data/news.jsonl.gz"), "news"),
        (Files(files="s3://bucket/*.txt"), "bucket"),
        (Files(files="file:///*.txt"), "corpus"),
        (Files(files="file:///a/my news (old)/*.txt"), "my-news-old"),
        (Files(files="file:///a/..odd/*.txt"), "odd"),
        (Images(images="file:///a/cats/**/*.png"), "cats"),
        (Hub(hub="wikimedia/wikipedia"), "wikipedia"),
        (Vocabulary(vocabulary=True), "vocabulary"),
    ],
)
def test_a_corpus_is_named_after_its_source(corpus, own):
    assert name(corpus) == own


def test_the_same_files_have_one_canonical_form_however_they_are_written(tmp_path):
    same = [
        source(corpus, tmp_path / "recipes")
        for corpus in (
            Files(files="../data/*.jsonl"),
            Files(files=f"{tmp_path}/data/*.jsonl", text="text"),
            Files(files=f"file://{tmp_path}/data/./*.jsonl"),
        )
    ]
    assert {identity(corpus) for corpus in same} == {identity(same[0])}
    assert same[0].files == f"file://{tmp_path}/data/*.jsonl"
    assert identity(source(Files(files="../data/*.jsonl", text="body"), tmp_path)) != identity(same[0])


def test_a_remote_glob_stays_as_it_is(tmp_path):
    assert source(Files(files="s3://a/../b/*.txt"), tmp_path).files == "s3://a/../b/*.txt"


def test_a_hub_corpus_that_is_a_folder_is_found_from_the_recipe(tmp_path):
    assert source(Hub(hub="../data"), tmp_path / "recipes").hub == f"{tmp_path}/data"
    assert source(Hub(hub="owner/data"), tmp_path).hub == "owner/data"


def test_a_folder_with_wildcards_in_its_name_is_meant_literally(tmp_path):
    for folder in ("run[1]", "run1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(folder)
    corpus = source(Files(files="*.txt"), tmp_path / "run[1]")
    assert plain(corpus, tmp_path) == {"a.txt": "run[1]"}
    assert name(corpus) == "run-1"


# --- formats


def test_json_lines_with_byte_order_mark_windows_line_ends_and_blank_lines(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('\ufeff{"text": "Grüße\\r\\n🙂", "n": 1}\r\n\r\n{"text": ""}\r\n'.encode())
    corpus = source(Files(files="*.jsonl", labels=("n",)), tmp_path)
    first, second = read(corpus, survey(corpus).files)
    assert (first.key, first.content, first.labels) == ("a.jsonl:0", Text("Grüße\r\n🙂"), {"n": 1})
    assert (second.key, second.content, second.labels) == ("a.jsonl:2", Text(""), {"n": None})


def test_the_last_line_needs_no_line_end(tmp_path):
    (tmp_path / "a.json").write_bytes(jsonl({"text": "a"}) + b'{"text": "b"}')
    assert plain(Files(files="a.json"), tmp_path) == {"a.json:0": "a", "a.json:1": "b"}


@pytest.mark.parametrize("suffix", ["jsonl.gz", "json.gz"])
def test_compressed_json_lines(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(gzip.compress(jsonl({"text": "a"}, {"text": "b"})))
    assert list(plain(Files(files="*.gz"), tmp_path).values()) == ["a", "b"]


@pytest.mark.parametrize(
    ("split", "found"),
    [
        ("file", {"a.txt": "one \u2028 two\r\n\r\n \r\nthree\nfour"}),
        ("line", {"a.txt:0": "one \u2028 two", "a.txt:3": "three", "a.txt:4": "four"}),
        ("paragraph", {"a.txt:0": "one \u2028 two", "a.txt:1": "three\nfour"}),
    ],
)
def test_text_is_one_document_per_file_line_or_paragraph(tmp_path, split, found):
    (tmp_path / "a.txt").write_bytes("\ufeffone \u2028 two\r\n\r\n \r\nthree\nfour".encode())
    assert plain(Files(files="*.txt", split=split), tmp_path) == found


def test_an_empty_file_among_others_is_an_empty_document(tmp_path):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.md").write_text("b\n")
    assert plain(Files(files="*"), tmp_path) == {"a.txt": "", "b.md": "b\n"}


def test_csv_with_quoted_line_ends_and_long_fields(tmp_path):
    long = "word " * 50_000
    (tmp_path / "a.csv").write_bytes(
        b'\xef\xbb\xbfid,text,n\r\nx,"one\r\ntwo, ""three""",1\r\n\r\ny,,\r\nz,' + long.encode() + b",3\r\n"
    )
    corpus = source(Files(files="*.csv", id="id", labels=("n",)), tmp_path)
    found = list(read(corpus, survey(corpus).files))
    assert [document.key for document in found] == ["x", "y", "z"]
    assert [document.content.text for document in found] == ['one\r\ntwo, "three"', "", long]
    assert [document.labels["n"] for document in found] == ["1", "", "3"]


def test_tab_separated_values(tmp_path):
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"text\tn\na, b\t1\n"))
    assert plain(Files(files="*.tsv.gz"), tmp_path) == {"a.tsv.gz:0": "a, b"}


def parquet(path, table: dict, **options) -> None:
    pq.write_table(pa.table(table), path, **options)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_is_read_by_row_group(tmp_path, kind):
    rows = [f"text {n}" for n in range(1000)]
    columns = {"text": pa.array(rows).cast(kind), "n": list(range(1000)), "unused": [b""] * 1000}
    parquet(tmp_path / "a.parquet", columns, row_group_size=300)
    corpus = source(Files(files="*.parquet", labels=("n",)), tmp_path)
    found = list(read(corpus, survey(corpus).files))
    assert [document.content.text for document in found] == rows
    assert [document.labels for document in found] == [{"n": n} for n in range(1000)]
    assert found[-1].key == "a.parquet:999"


def test_json_lines_and_parquet_are_streamed(tmp_path):
    """Reading the first document leaves the rest of a file unread: damage further on is not seen."""
    (tmp_path / "a.jsonl").write_bytes(jsonl({"text": "a"}) * 200 + b"\xff broken")
    for corpus in (Files(files="a.jsonl"),):
        whole = source(corpus, tmp_path)
        assert next(read(whole, survey(whole).files)).content == Text("a")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_chats(tmp_path, form):
    chat = [{"role": "user", "content": "hi", "name": "Ann"}, {"role": "assistant", "content": ""}]
    if form == "jsonl":
        (tmp_path / "a.jsonl").write_bytes(jsonl({"chat": chat}))
    else:
        parquet(tmp_path / "a.parquet", {"chat": [chat]})
    found = texts(Files(files="*", messages="chat"), tmp_path)
    assert found == {f"a.{form}:0": Messages(tuple(chat))}


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_ready_ids(tmp_path, form):
    if form == "jsonl":
        (tmp_path / "a.jsonl").write_bytes(jsonl({"ids": [1, 2]}, {"ids": []}))
    else:
        parquet(tmp_path / "a.parquet", {"ids": pa.array([[1, 2], []], pa.list_(pa.int32()))})
    assert list(texts(Files(files="*", input_ids="ids"), tmp_path).values()) == [Ids((1, 2)), Ids(())]


def test_images_in_files_and_in_parquet(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "a.png").write_bytes(PNG)
    (tmp_path / "b.JPG").write_bytes(b"jpeg")
    assert texts(Images(images="**/*.[pJ]*"), tmp_path) == {"b.JPG": Image(b"jpeg"), "cats/a.png": Image(PNG)}
    parquet(tmp_path / "a.parquet", {"image": [{"bytes": PNG, "path": "x"}], "class": ["cat"], "id": [7]})
    parquet(tmp_path / "b.parquet", {"image": [b"plain"], "class": ["dog"], "id": [8]})
    corpus = source(Images(images="*.parquet", labels=("class",), id="id"), tmp_path)
    found = list(read(corpus, survey(corpus).files))
    assert [(one.key, one.content, one.labels["class"]) for one in found] == [
        ("7", Image(PNG), "cat"),
        ("8", Image(b"plain"), "dog"),
    ]


def test_a_vocabulary_is_one_file_without_documents(tmp_path):
    corpus = source(Vocabulary(vocabulary=True), tmp_path)
    facts = survey(corpus)
    assert len(parts(facts)) == len(facts.files) == 1
    assert list(read(corpus, facts.files)) == []
    assert digest(facts.files[0]) == ""


# --- files


def test_files_are_sorted_and_keys_are_paths_below_the_fixed_folder(tmp_path):
    for path in ("b/2.txt", "b/10.txt", "a/deep/1.txt", ".hidden/3.txt", "b/.part.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    assert list(plain(Files(files="**/*.txt"), tmp_path)) == ["a/deep/1.txt", "b/10.txt", "b/2.txt"]
    assert list(plain(Files(files="b/*.txt"), tmp_path)) == ["10.txt", "2.txt"]
    assert list(plain(Files(files="b/2.txt"), tmp_path)) == ["2.txt"]


def test_any_file_system_that_fsspec_knows():
    memory = MemoryFileSystem()
    memory.pipe("/corpora/any/b.jsonl", jsonl({"text": "b"}))
    memory.pipe("/corpora/any/a.jsonl", jsonl({"text": "a"}))
    corpus = Files(files="memory://corpora/any/*.jsonl")
    facts = survey(corpus)
    assert [document.key for document in read(corpus, facts.files)] == ["a.jsonl:0", "b.jsonl:0"]
    assert digest(facts.files[0]) == hashlib.sha256(jsonl({"text": "a"})).hexdigest()
    memory.pipe("/corpora/any/a.jsonl", jsonl({"text": "c"}))
    assert survey(corpus).files[0].stamp != facts.files[0].stamp
    assert survey(corpus).files[1] == facts.files[1]


def test_a_file_is_known_by_size_time_and_digest(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abc")
    (file,) = survey(source(Files(files="*.txt"), tmp_path)).files
    assert file == SourceFile(path=f"file://{path}", size=3, stamp=str(path.stat().st_mtime_ns))
    assert digest(file) == hashlib.sha256(b"abc").hexdigest()


def test_parts_are_consecutive_files_up_to_a_size():
    sizes = [10, 10, 30, 100, 0, 5, 5]
    files = tuple(SourceFile(path=str(n), size=size) for n, size in enumerate(sizes))
    groups = parts(CorpusFacts(files=files), size=40)
    assert [[file.size for file in group] for group in groups] == [[10, 10], [30], [100], [0, 5, 5]]
    assert tuple(file for group in groups for file in group) == files


def test_reading_can_be_sent_to_another_process(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    corpus = source(Files(files="*.txt"), tmp_path)
    function, arguments = pickle.loads(pickle.dumps((read, (corpus, survey(corpus).files))))
    documents = pickle.loads(pickle.dumps(list(function(*arguments))))
    assert [document.content for document in documents] == [Text("a")]


# --- the user's mistakes, found before anything starts


def test_a_glob_that_matches_nothing_says_what_is_there(tmp_path):
    for file in ("news-01.jsonl", "news-02.jsonl", "readme.md"):
        (tmp_path / file).write_text("{}")
    refused(Files(files="nwes-*.jsonl"), tmp_path, r"no file matches .*nwes-\*\.jsonl: .* holds news-0.*")
    refused(Files(files="none/*.jsonl"), tmp_path, r"there is no folder .*/none")
    refused(Files(files="news-03.jsonl"), tmp_path, r"no file matches .*holds news-0")
    refused(Files(files="memory://nowhere/*.txt"), tmp_path, "no file matches")


def test_a_folder_is_no_glob(tmp_path):
    refused(Files(files=str(tmp_path)), tmp_path, r"is a folder: wanted a glob of files, such as .*/\*\.jsonl")


def test_a_scheme_that_nothing_reads_is_refused(tmp_path):
    refused(Files(files="nosuch://a/*.txt"), tmp_path, "cannot open nosuch://a")


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, form):
    if form == "jsonl":
        (tmp_path / "a.jsonl").write_bytes(jsonl({"body": "x", "n": 1}))
    elif form == "csv":
        (tmp_path / "a.csv").write_text("body,n\nx,1\n")
    else:
        parquet(tmp_path / "a.parquet", {"body": ["x"], "n": [1]})
    refused(Files(files="a.*"), tmp_path, r"has no column 'text'; its columns: body, n\. Name one")
    refused(Files(files="a.*", text="body", labels=("topic", "n")), tmp_path, "has no column 'topic'; its columns")
    refused(Files(files="a.*", text="body", id="uuid"), tmp_path, "has no column 'uuid'")


def test_a_column_that_later_json_objects_have_is_there(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl({"text": "a"}, {"text": "b", "topic": "x"}))
    corpus = source(Files(files="*", labels=("topic",)), tmp_path)
    assert [document.labels["topic"] for document in read(corpus, survey(corpus).files)] == [None, "x"]


def test_text_and_image_files_have_no_other_columns(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.png").write_bytes(PNG)
    refused(Files(files="*.txt", labels=("topic",)), tmp_path, "no column 'topic'; its columns: text")
    refused(Images(images="*.png", labels=("class",)), tmp_path, "no column 'class'; its columns: image")


@pytest.mark.parametrize(
    ("corpus", "file"),
    [
        (Files(files="*"), "a.pdf"),
        (Files(files="*"), "a"),
        (Files(files="*"), "a.parquet.gz"),
        (Files(files="*"), "a.png"),
        (Images(images="*"), "a.txt"),
        (Images(images="*"), "a.svg"),
    ],
)
def test_a_suffix_that_is_not_known_is_refused(tmp_path, corpus, file):
    (tmp_path / file).write_text("x")
    refused(corpus, tmp_path, rf"{file}: the suffix tells the format; wanted one of \.")


@pytest.mark.parametrize("file", ["a.txt", "a.jsonl", "a.csv"])
def test_files_without_a_byte_are_an_empty_corpus(tmp_path, file):
    (tmp_path / file).write_text("")
    refused(Files(files="*"), tmp_path, r"the corpus is empty: 1 files, 0 bytes")


@pytest.mark.parametrize(
    ("file", "data", "split"),
    [
        ("a.jsonl", b"\n \n", "file"),
        ("a.csv", b"text\n", "file"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "file"),
        ("a.txt", b"\n  \n", "line"),
        ("a.txt", b"\n  \n", "paragraph"),
    ],
)
def test_files_without_a_row_are_an_empty_corpus(tmp_path, file, data, split):
    (tmp_path / file).write_bytes(data)
    refused(Files(files="*", split=split), tmp_path, r"the corpus is empty: 1 files without a row")


def test_parquet_without_a_row_is_an_empty_corpus(tmp_path):
    parquet(tmp_path / "a.parquet", {"text": pa.array([], pa.string())})
    refused(Files(files="*"), tmp_path, "the corpus is empty")


def test_a_parquet_column_of_another_type_is_refused(tmp_path):
    parquet(tmp_path / "a.parquet", {"text": [1]})
    refused(Files(files="*"), tmp_path, "column 'text' holds int64, wanted strings")


def test_csv_holds_no_lists_and_only_text_is_split(tmp_path):
    (tmp_path / "a.csv").write_text("text\nx\n")
    refused(Files(files="*", messages="text"), tmp_path, "CSV has no lists, so it cannot hold messages")
    refused(Files(files="*", input_ids="text"), tmp_path, "CSV has no lists, so it cannot hold input_ids")
    refused(Files(files="*", split="line"), tmp_path, r"split = 'line' is for \.txt and \.md")


def test_a_csv_header_that_names_a_column_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,text\nx,y\n")
    refused(Files(files="*"), tmp_path, "names a column twice")


class _Locked(AbstractFileSystem):
    """A store with one object, which may be listed but not read, beside a folder that may not even be listed."""

    protocol = "locked"

    def ls(self, path, detail=True, **options):
        path = self._strip_protocol(path)
        if path.startswith("closed"):
            raise PermissionError(13, "Access denied", path)
        found = {"name": "open/a.jsonl", "size": 2, "type": "file", "ETag": '"1"'}
        return [found] if detail else [found["name"]]

    def _open(self, path, *args, **options):
        raise PermissionError(13, "Access denied", path)


def test_files_that_may_not_be_read_are_refused(tmp_path):
    fsspec.register_implementation("locked", _Locked, clobber=True)
    refused(Files(files="locked://open/*.jsonl"), tmp_path, "no permission to read locked://open/a.jsonl")
    refused(Files(files="locked://closed/*.jsonl"), tmp_path, "no permission to read .*closed")


def test_a_store_that_keeps_etags_is_not_read_to_know_a_file():
    fsspec.register_implementation("locked", _Locked, clobber=True)
    assert digest(SourceFile(path="locked://open/a.jsonl", size=2)) == "1"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_local_files_that_may_not_be_read_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "b.txt").chmod(0)
    refused(Files(files="*"), tmp_path, r"no permission to read .*b\.txt")


# --- damage, with the document named


@pytest.mark.parametrize(
    ("file", "data", "match"),
    [
        ("a.txt", "ok\nGrüße".encode("latin-1"), r"a\.txt, line 2: byte 0xfc is not UTF-8"),
        ("a.txt", "text".encode("utf-16"), r"a\.txt, line 1: byte 0xff is not UTF-8"),
        ("a.jsonl", jsonl({"text": "a"}) + b'{"text": "\xff"}\n', r"a\.jsonl, line 2: byte 0xff is not UTF-8"),
        ("a.jsonl", jsonl({"text": "a"}) + b"\n{'text'}\n", r"a\.jsonl, line 3: wanted one JSON object, found \"{'tex"),
        ("a.jsonl", jsonl({"text": "a"}, [1]), r"a\.jsonl, line 2: wanted one JSON object, found '\[1\]'"),
        ("a.jsonl", b'{"text": "\\ud83d"}', r"a\.jsonl, line 1: wanted one JSON object"),
        ("a.json", b'[\n{"text": "a"}\n]', r"a\.json, line 1: wanted one JSON object"),
        ("a.csv", b"text,n\na,1\n\xe9,2\n", r"a\.csv, line 3: byte 0xe9 is not UTF-8"),
        ("a.csv", b"text,n\na,1\nb\n", r"a\.csv, line 3: 1 fields where the header has 2"),
        ("a.csv", b'text,n\na,1\n"b,2\n', r"a\.csv, line 3: unexpected end of data"),
        ("a.jsonl.gz", gzip.compress(jsonl({"text": "a"}), mtime=0)[:-12], r"a\.jsonl\.gz is damaged"),
        ("a.jsonl.gz", jsonl({"text": "a"}), r"a\.jsonl\.gz is damaged"),
        ("a.parquet", b"PAR1 not really", r"a\.parquet: damaged Parquet"),
    ],
)
def test_damaged_bytes_are_named_with_file_and_line(tmp_path, file, data, match):
    (tmp_path / file).write_bytes(data)
    broken(Files(files="*"), tmp_path, match)


def test_a_parquet_page_that_is_damaged_is_named_with_its_row(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [f"row {n} " + "ab" * 50 for n in range(2000)]
    parquet(
        path, {"text": rows}, row_group_size=500, compression="none", use_dictionary=False, write_page_checksum=True
    )
    path.write_bytes(path.read_bytes().replace(b"row 1200 ab", b"row 1200 ac"))  # only the checksum tells
    corpus = source(Files(files="*"), tmp_path)
    files = survey(corpus).files
    with pytest.raises(RunError, match=r"a\.parquet, after row 896: damaged Parquet"):
        list(read(corpus, files))


def test_parquet_text_that_is_not_utf8_is_named_with_its_row(tmp_path):
    raw = pa.array([b"good"] * 300 + [b"\xff"]).view(pa.string())
    parquet(tmp_path / "a.parquet", {"text": raw})
    broken(Files(files="*"), tmp_path, r"a\.parquet, row 300: a string is not UTF-8")


@pytest.mark.parametrize(
    ("row", "corpus", "match"),
    [
        ({"text": None}, Files(files="*"), r"document a\.jsonl:1: column 'text' holds nothing"),
        ({"body": ""}, Files(files="*"), r"document a\.jsonl:1: column 'text' holds nothing"),
        ({"text": 3}, Files(files="*"), r"document a\.jsonl:1: column 'text' holds int 3, wanted a string"),
        ({"text": "", "n": [1]}, Files(files="*", labels=("n",)), r"a\.jsonl:1: label 'n' holds list \[1\]"),
        ({"text": "", "id": None}, Files(files="*", id="id"), "id column 'id' holds nothing"),
        ({"text": "", "id": 1.5}, Files(files="*", id="id"), r"id column 'id' holds float 1\.5"),
        ({"text": "", "id": "one"}, Files(files="*", id="id"), "two documents have the id 'one' in column 'id'"),
        ({"chat": []}, Files(files="*", messages="chat"), "wanted a list of messages"),
        ({"chat": [{"role": "user"}]}, Files(files="*", messages="chat"), "wanted messages whose role and content"),
        ({"ids": [1, "2"]}, Files(files="*", input_ids="ids"), "wanted a list of integers"),
        ({"ids": [True]}, Files(files="*", input_ids="ids"), "wanted a list of integers"),
    ],
)
def test_a_row_that_is_no_document_is_named(tmp_path, row, corpus, match):
    good = {"text": "a", "id": "one", "n": 1, "chat": [{"role": "user", "content": "a"}], "ids": [1]}
    (tmp_path / "a.jsonl").write_bytes(jsonl(good, row))
    broken(corpus, tmp_path, match)


def test_a_later_file_without_the_column_is_named(tmp_path):
    parquet(tmp_path / "a.parquet", {"text": ["a"]})
    parquet(tmp_path / "b.parquet", {"body": ["b"]})
    broken(Files(files="*"), tmp_path, r"b\.parquet has no column 'text'; its columns: body")


def test_a_file_that_has_gone_since_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    corpus = source(Files(files="*"), tmp_path)
    files = survey(corpus).files
    (tmp_path / "a.txt").unlink()
    with pytest.raises(RunError, match=r"a\.txt could be listed but not read"):
        list(read(corpus, files))


def test_an_image_column_without_bytes_is_named(tmp_path):
    parquet(tmp_path / "a.parquet", {"image": ["path.png"]})
    broken(Images(images="*"), tmp_path, r"document a\.parquet:0: column 'image' holds str 'path\.png'")


# --- the hub


def test_a_hub_corpus_without_the_library_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(Hub(hub="wikimedia/wikipedia"), tmp_path, r"`datasets`, which is not installed: pip install -e '\.\[hub\]'")


def test_a_hub_corpus_is_read_shard_by_shard(tmp_path):
    pytest.importorskip("datasets")
    for n in range(3):
        (tmp_path / f"train-{n}.jsonl").write_bytes(jsonl(*({"body": f"{n} {m}", "m": m} for m in range(4))))
    corpus = source(Hub(hub=str(tmp_path), text="body", labels=("m",)), tmp_path)
    facts = survey(corpus)
    assert len(facts.files) == 3
    found = [document for part in parts(facts) for document in read(corpus, part)]
    assert [document.content.text for document in found] == [f"{n} {m}" for n in range(3) for m in range(4)]
    assert len({document.key for document in found}) == 12
    assert found[1].labels == {"m": 1}
    refused(Hub(hub=str(tmp_path)), tmp_path, "has no column 'text'; its columns: body, m")
    refused(Hub(hub=str(tmp_path), split="test"), tmp_path, "Bad split: test")
    refused(Hub(hub=str(tmp_path / "none")), tmp_path, "cannot be read")


# --- start-up


def test_naming_and_reading_corpora_loads_nothing_heavy(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl({"text": "a"}))
    code = (
        "import sys; from pipeline.corpus import Files, source; from pipeline.readers import read;"
        "from pipeline.survey import survey; import workers.tokens;"
        f"corpus = source(Files(files='*.jsonl'), {str(tmp_path)!r}); list(read(corpus, survey(corpus).files));"
        "print([name for name in ('torch', 'transformers', 'ray', 'datasets', 'pyarrow') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]", ran.stdout
