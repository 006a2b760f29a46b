"""English that every machine has: the docstrings of the standard library and of installed packages, as documents.

Files are parsed, never imported. Modules come in the order of a hash of their names, so that a part of them is a fair
sample of all.
"""

import ast
import hashlib
import inspect
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

STDLIB = "stdlib"
OTHER = "other"
OUR_OWN = {"examples", "jobs", "pipeline", "storage", "workers"}
"""Where garner itself is installed, its texts would change with its code."""

_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "_vendor", "vendored"}
_WORDS_OF_PARAGRAPH = 8
_SHARE_OF_LETTERS = 0.9
_BATCH = 64
_HEADING = re.compile(r"^.+\n[ \t]*[-=~^*#]{3,}[ \t]*$", re.MULTILINE)
_NOT_PROSE = re.compile(
    r">>>| : |[-=]{4,}|^\w+ ?(\([^)]*\))?: |\b(Args|Arguments|Parameters|Returns?|Raises|Yields|Examples?|Notes?)\b *:"
)
"""An example, a parameter with its type, a rule, a definition, a section without a blank line after its heading."""


@dataclass(frozen=True, slots=True)
class Document:
    """The prose of one docstring."""

    id: str
    """`module:qualname`; of a module itself, `module:`."""
    text: str
    package: str
    """The top-level package, or `stdlib`."""
    kind: str
    """module, class or function."""


@dataclass(frozen=True, slots=True)
class Source:
    """One Python file."""

    module: str
    package: str
    path: Path


def installed() -> dict[Path, str | None]:
    """The folders to search, each with the package that all its modules count as, if they do."""
    paths = sysconfig.get_paths()
    return {Path(paths["stdlib"]): STDLIB, Path(paths["purelib"]): None, Path(paths["platlib"]): None}


def sources(folders: Mapping[Path, str | None]) -> list[Source]:
    """Every module of the folders, tests and vendored copies left out, in the order of a hash of their names."""
    found = {source.module: source for folder, package in folders.items() for source in _below(folder, package)}
    return sorted(found.values(), key=lambda source: hashlib.sha256(source.module.encode()).digest())


def _below(folder: Path, package: str | None) -> Iterator[Source]:
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        if _SKIPPED.isdisjoint(parts) and not (package is None and parts[0] in OUR_OWN):
            names = parts[:-1] if parts[-1] == "__init__" else parts
            yield Source(".".join(names), package or parts[0], path)


def documents(found: Iterable[Source]) -> Iterator[Document]:
    """The docstrings that hold prose; a paragraph that an earlier one holds already is left out."""
    seen: set[str] = set()
    for source in found:
        ids: set[str] = set()
        for name, kind, docstring in docstrings(source.path):
            fresh = [text for text in prose(docstring) if text.casefold() not in seen]
            key = f"{source.module}:{name}"
            if fresh and key not in ids:
                ids.add(key)
                seen.update(text.casefold() for text in fresh)
                yield Document(key, "\n\n".join(dict.fromkeys(fresh)), source.package, kind)


def docstrings(path: Path) -> Iterator[tuple[str, str, str]]:
    """Qualified name, kind and docstring of everything in a file that has one; none where it is not Python."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    yield from _scope(tree, "")


def _scope(scope: Scope, name: str) -> Iterator[tuple[str, str, str]]:
    docstring = ast.get_docstring(scope, clean=False)
    if docstring:
        yield name, _kind(scope), inspect.cleandoc(docstring)
    for child in ast.iter_child_nodes(scope):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _scope(child, f"{name}.{child.name}".lstrip("."))


def _kind(scope: Scope) -> str:
    match scope:
        case ast.Module():
            return "module"
        case ast.ClassDef():
            return "class"
        case _:
            return "function"


def prose(docstring: str) -> list[str]:
    """The paragraphs that read like English, each on one line."""
    blocks = (" ".join(block.split()) for block in re.split(r"\n\s*\n", _HEADING.sub("", docstring)))
    return [text for text in blocks if _is_prose(text)]


def take(found: Iterable[Document], n_tokens: int, count: Callable[[list[str]], int]) -> tuple[list[Document], int]:
    """The first documents that come to `n_tokens` by `count`, to within a batch; and how many tokens they have."""
    taken: list[Document] = []
    total = 0
    left = iter(found)
    while total < n_tokens and (batch := list(islice(left, _BATCH))):
        taken += batch
        total += count([document.text for document in batch])
    return taken, total


def fold(taken: Sequence[Document], n_packages: int) -> list[Document]:
    """The same with all packages but those of most documents called `other`."""
    often = Counter(document.package for document in taken)
    kept = sorted(often, key=lambda package: (-often[package], package))[:n_packages]
    return [document if document.package in kept else replace(document, package=OTHER) for document in taken]


def _is_prose(text: str) -> bool:
    """Whether a paragraph is a sentence or more, and not a list, a signature, an example or a table."""
    if not text[:1].isupper() or not text.endswith((".", "!", "?")) or _NOT_PROSE.search(text):
        return False
    letters = sum(one.isalpha() or one.isspace() for one in text)
    return len(text.split()) >= _WORDS_OF_PARAGRAPH and letters >= _SHARE_OF_LETTERS * len(text)
