"""The files a model is made of: where they are and what they hash to, with no weight loaded."""

import functools
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import huggingface_hub
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from storage.errors import InputError
from storage.value import canonical

# The order in which `from_pretrained` looks.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
# Written by `save_pretrained` about where and by what it ran: they change no number.
_VOLATILE = ("_name_or_path", "transformers_version")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def resolve(source: str, revision: str | None) -> tuple[str, str]:
    """The source with its revision pinned: (absolute folder, "") or (hub id, commit)."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return str(folder.resolve()), ""
    if not _HUB_ID.fullmatch(source):
        raise InputError(
            f"no model at {source!r}: there is no such folder, and it is no hub id (name or owner/name): "
            "check the path; a model folder holds config.json and its weights"
        )
    config = find(source, "config.json", revision)
    if config is None:
        raise _absent(source, revision, "it holds no config.json, or the hub is off line and its cache has none")
    return source, extract_commit_hash(str(config), None) or revision or ""


def find(source: str, name: str, revision: str | None) -> Path | None:
    """Where file `name` of the model lies on this machine (fetched if it is on the hub), or None if it has none."""
    folder = Path(source)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    try:
        found = cached_file(source, name, revision=revision or None, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        raise _absent(source, revision, str(error).strip().splitlines()[0]) from error
    return None if found is None else Path(found)


def read_config(source: str, revision: str) -> dict[str, Any]:
    """config.json without the fields that only say where it was saved."""
    path = find(source, "config.json", revision)
    if path is None:
        raise InputError(f"model {source!r} holds no config.json: name a folder made by save_pretrained")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): save the model again") from error
    return {key: value for key, value in config.items() if key not in _VOLATILE}


def config_digest(source: str, revision: str) -> str:
    """SHA-256 of the canonical config.json."""
    return hashlib.sha256(canonical(read_config(source, revision))).hexdigest()


def weights_digest(source: str, revision: str) -> str:
    """SHA-256 over the names and SHA-256 of the weight files, the same wherever the files lie."""
    shas = {name: _weight_sha(source, name, revision) for name in _weight_names(source, revision)}
    return _digest_of(shas.items())


def tokenizer_digest(source: str, revision: str) -> str:
    """SHA-256 over the tokenizer's files; "" where the model has none."""
    return _small_files_digest(source, _TOKENIZER, revision)


def processor_digest(source: str, revision: str) -> str:
    """SHA-256 over the image processor's files; "" where the model has none."""
    return _small_files_digest(source, _PROCESSOR, revision)


def _small_files_digest(source: str, names: Iterable[str], revision: str) -> str:
    paths = {name: find(source, name, revision) for name in names}
    shas = [(name, _sha_of(path)) for name, path in paths.items() if path is not None]
    return _digest_of(shas) if shas else ""


def _digest_of(shas: Iterable[tuple[str, str]]) -> str:
    return hashlib.sha256("".join(f"{name} {sha}\n" for name, sha in sorted(shas)).encode()).hexdigest()


def _weight_names(source: str, revision: str) -> list[str]:
    for name in _WEIGHTS:
        if not _exists(source, name, revision):
            continue
        if not name.endswith(".index.json"):
            return [name]
        index = find(source, name, revision)
        assert index is not None, name
        return sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    raise InputError(f"model {source!r} holds no weights: wanted one of {', '.join(_WEIGHTS)}; save the model again")


def _exists(source: str, name: str, revision: str) -> bool:
    if Path(source).is_dir():
        return (Path(source) / name).is_file()
    return _cached(source, name, revision) is not None or _hub_etag(source, name, revision) is not None


def _weight_sha(source: str, name: str, revision: str) -> str:
    """A weight file's SHA-256: from its bytes or, on the hub, from its blob's name, so that planning fetches none."""
    if Path(source).is_dir():
        path = Path(source) / name
        if not path.is_file():
            raise InputError(f"model {source!r} lacks the weight file {name} that its index names: save it again")
        return _sha_of(path)
    cached = _cached(source, name, revision)
    if cached is not None:
        return _sha_of(cached)
    etag = _hub_etag(source, name, revision) or ""
    if _SHA256.fullmatch(etag):
        return etag
    fetched = find(source, name, revision)
    if fetched is None:
        raise InputError(f"model {source!r} lacks the weight file {name} that its index names: name another revision")
    return _sha_of(fetched)


def _cached(source: str, name: str, revision: str) -> Path | None:
    found = huggingface_hub.try_to_load_from_cache(source, name, revision=revision or None)
    return Path(found) if isinstance(found, str) else None


def _hub_etag(source: str, name: str, revision: str) -> str | None:
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return None
    url = huggingface_hub.hf_hub_url(source, name, revision=revision or None)
    try:
        return huggingface_hub.get_hf_file_metadata(url).etag
    except huggingface_hub.errors.EntryNotFoundError:
        return None


def _sha_of(path: Path) -> str:
    """SHA-256 of a file; a hub cache's file is a link to a blob that large files name by it already."""
    blob = path.resolve()
    if blob != path and _SHA256.fullmatch(blob.name):
        return blob.name
    stat = blob.stat()
    return _sha_of_bytes(blob, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _sha_of_bytes(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _absent(source: str, revision: str | None, why: str) -> InputError:
    at = f" at revision {revision!r}" if revision else ""
    return InputError(
        f"no model {source!r}{at}: it is no folder here, and the hub gives none ({why}): "
        "check the name and the revision, or give the folder of a saved model"
    )
