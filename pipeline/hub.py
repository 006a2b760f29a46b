"""Data sets of the Hugging Face hub, streamed through the optional `datasets` library; a shard counts as a file."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.corpus import Hub
from storage.errors import InputError
from storage.manifest import SourceFile

UNKNOWN_SIZE = 64 * 2**20
"""Bytes that a shard counts for where the hub does not say."""


def look(corpus: Hub) -> tuple[tuple[SourceFile, ...], list[str]]:
    """The shards of the split, each with the data set's own hash as its stamp, and the data set's columns."""
    builder = _builder(corpus)
    stream = _stream(corpus, builder)
    count = int(stream.num_shards)
    size = builder.info.dataset_size
    each = size // count if size else UNKNOWN_SIZE
    folder = f"hub://{corpus.hub.strip('/')}/{corpus.subset or 'default'}/{corpus.split}"
    shards = tuple(
        SourceFile(path=f"{folder}/{index:05d}-of-{count:05d}", size=each, stamp=builder.hash, digest=builder.hash)
        for index in range(count)
    )
    return shards, list(stream.column_names or next(iter(stream), {}))


def rows(corpus: Hub, file: SourceFile) -> Iterator[tuple[int, Mapping[str, object]]]:
    """The rows of one shard, numbered from 0."""
    index, _, count = file.path.rpartition("/")[2].partition("-of-")
    stream = _stream(corpus, _builder(corpus))
    if stream.num_shards != int(count):
        raise InputError(
            f"{file.path}: the data set {corpus.hub!r} has {stream.num_shards} shards now, {count} when planned: "
            "name its revision in the corpus"
        )
    yield from enumerate(stream.shard(int(count), int(index)))


def _builder(corpus: Hub) -> Any:
    datasets = _library()
    try:
        return datasets.load_dataset_builder(corpus.hub, corpus.subset, revision=corpus.revision)
    except (OSError, ValueError) as error:
        raise _refused(corpus, error) from error


def _stream(corpus: Hub, builder: Any) -> Any:
    try:
        return builder.as_streaming_dataset(split=corpus.split)
    except (OSError, ValueError) as error:
        raise _refused(corpus, error) from error


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "a hub corpus is read by the library `datasets`, which is not installed: pip install -e '.[hub]', "
            "or name local files"
        ) from error
    return datasets


def _refused(corpus: Hub, error: Exception) -> InputError:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(
        f"data set {corpus.hub!r} (subset {corpus.subset or 'default'!r}, split {corpus.split!r}) cannot be read: "
        f"{said}. Check the three names and the network"
    )
