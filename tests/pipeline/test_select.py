"""A cache of some tokens only holds the rows that a cache of all of them has there, and nothing else."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from pipeline.progress import Progress
from pipeline.run import run
from storage import Artifact, Lake
from storage.errors import InputError
from storage.sequences import Sequences
from storage.tokens import ROLES
from tests.pipeline import tiny
from tests.pipeline.test_resume import Died, MortalStore, objects
from workers.parity import certify

SPECIAL = (1, 2, 3)
"""<eos>, <cls>, <sep>"""
SELECTIONS = {
    "content": {"kind": "content"},
    "last": {"kind": "last"},
    "very-last": {"kind": "last", "special": True},
    "every": {"kind": "every", "n": 3},
}
CHATS = [
    [{"role": "system", "content": "brief"}, {"role": "user", "content": "hi " * 9}],
    [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer " * 9}],
    [{"role": "user", "content": ""}],
    [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, {"role": "user", "content": "z"}],
]


def chosen(cache, select):
    """Which rows of a cache of all tokens a selection keeps, said slowly; bool [rows]."""
    index, every = cache.tokens, slice(None)
    ids, positions, sequences = index.ids(every), index.positions(every), index.sequences(every)
    if select["kind"] == "every":
        return positions % select["n"] == 0
    if select["kind"] == "role":
        return index.roles(every) == ROLES.index(select["role"])
    content = ~np.isin(ids, SPECIAL)
    if select["kind"] == "content":
        return content
    allowed = content | select.get("special", False)
    last = {sequence: row for row, sequence in enumerate(sequences.tolist()) if allowed[row]}
    return np.isin(np.arange(cache.n_rows), list(last.values()))


def told(cache, rows):
    """What the token index says of some rows."""
    index = cache.tokens
    return list(
        zip(
            index.ids(rows).tolist(),
            index.positions(rows).tolist(),
            index.sequences(rows).tolist(),
            index.documents(rows).tolist(),
            *(edge.tolist() for edge in index.offsets(rows)),
            index.strings(rows),
            [index.context(int(row), 3, 3) for row in rows],
            strict=True,
        )
    )


def both(recipe, base, select):
    """The cache of all tokens, and that of the selected ones, each newly harvested."""
    table, found = recipe["caches"]["texts"], []
    for lake, more in (("all", {}), ("some", {"select": select})):
        changed = table | {"tokenise": table.get("tokenise", {}) | more}
        found.append(tiny.harvest(recipe | {"lake": f"{recipe['lake']}-{lake}", "caches": {"texts": changed}}, base)[0])
    return found


def assert_selected(whole, some, select, tolerance=0.0):
    """The rows and the index of `some` are those of `whole` where it is selected."""
    rows = np.flatnonzero(chosen(whole, select))
    assert 0 < some.n_rows == len(rows) < whole.n_rows
    assert told(some, np.arange(some.n_rows)) == told(whole, rows)
    assert some.tokens.n_sequences == whole.tokens.n_sequences
    np.testing.assert_array_equal(some.tokens.document_ids, whole.tokens.document_ids)
    for document in range(whole.tokens.n_documents):
        mine = np.searchsorted(rows, whole.tokens.document_rows(document))
        kept = np.isin(whole.tokens.document_rows(document), rows)
        np.testing.assert_array_equal(some.tokens.document_rows(document), mine[kept])
    for site in some.sites:
        assert some.site(site).shape == (len(rows), whole.site(site).d)
        assert tiny.worst(some.site(site)[:], whole.site(site)[:][rows]) <= tolerance, site


@pytest.fixture
def chats(decoder, tmp_path, in_memory):
    """A recipe over `CHATS`."""
    tiny.write_lines(tmp_path / "docs" / "a.jsonl", [{"messages": chat} for chat in CHATS])
    recipe = tiny.table(decoder, tmp_path, in_memory, unit=64)
    recipe["corpora"]["docs"]["messages"] = "messages"
    return recipe


class TestRows:
    @pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS)
    @pytest.mark.parametrize("kind", ["documents", "packed"])
    def test_they_are_those_of_a_cache_of_all_tokens_bit_for_bit(
        self, encoder, texts, in_memory, short_shards, select, kind
    ):
        recipe = tiny.table(encoder, texts, in_memory, unit=64, context=24, tokenise={"kind": kind})
        recipe["pool"]["batch_tokens"] = 1  # batches follow the rows of a shard, and the last bits follow the batches
        assert_selected(*both(recipe, texts, select), select)

    @pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS)
    def test_they_do_not_depend_on_the_batch(self, decoder, texts, in_memory, short_shards, select):
        recipe = tiny.table(decoder, texts, in_memory, unit=64, tokenise={"kind": "packed"})
        assert_selected(*both(recipe, texts, select), select, tolerance=1e-5)

    @pytest.mark.parametrize("role", ["system", "user", "assistant"])
    @pytest.mark.parametrize("context", [None, 16])
    def test_they_are_the_tokens_of_a_role(self, chats, tmp_path, short_shards, role, context):
        chats["pool"]["batch_tokens"] = 1
        chats["caches"]["texts"]["context"] = context or tiny.CONTEXT
        select = {"kind": "role", "role": role}
        whole, some = both(chats, tmp_path, select)
        assert_selected(whole, some, select)
        assert set(some.tokens.roles(slice(None)).tolist()) == {ROLES.index(role)}
        said = "".join(message["content"].strip() for chat in CHATS for message in chat if message["role"] == role)
        assert "".join(some.tokens.strings(slice(None))) == said

    def test_ready_ids_are_selected(self, encoder, in_memory, tmp_path, short_shards):
        ids = [[5, 6, 7, 3], [], [3, 1], list(range(4, 204))]
        tiny.write_lines(tmp_path / "docs" / "a.jsonl", [{"ids": one} for one in ids])
        recipe = tiny.table(encoder, tmp_path, in_memory, unit=64)
        recipe["corpora"]["docs"]["input_ids"] = "ids"
        recipe["caches"]["texts"]["tokenise"] = {"select": SELECTIONS["last"]}
        cache, progress = tiny.harvest(recipe, tmp_path)
        assert cache.tokens.ids(slice(None)).tolist() == [7, 67, 131, 195, 203]
        assert cache.tokens.positions(slice(None)).tolist() == [2, 63, 63, 63, 7]
        assert progress.forward_tokens == 4 + 200

    def test_a_cache_grows_by_segments_and_sites(self, encoder, texts, in_memory, short_shards):
        recipe = tiny.table(encoder, texts, in_memory, unit=64, sites=["embed"])
        recipe["pool"]["batch_tokens"] = 1
        both(recipe, texts, SELECTIONS["every"])
        tiny.write_texts(texts / "docs" / "b.jsonl", ["another", "", "and a last one, longer than that"])
        recipe["caches"]["texts"]["sites"] = ["embed", "resid.1"]
        whole, some = both(recipe, texts, SELECTIONS["every"])
        assert [len(cache.segments) for cache in (whole, some)] == [2, 2]
        assert_selected(whole, some, SELECTIONS["every"])


class TestWork:
    def test_a_sequence_without_a_row_is_not_run(self, chats, tmp_path):
        chats["caches"]["texts"] |= {"tokenise": {"select": {"kind": "role", "role": "assistant"}}, "context": 32}
        cache, progress = tiny.harvest(chats, tmp_path)
        (segment,) = cache.segments
        run_over = list(Sequences(segment).touching(0, segment.plan.rows))
        table = cache.tokens.table(["sequence", "length", "input_ids"]).to_pylist()
        wanted = [line["input_ids"] for line in table if line["length"]]
        assert [sequence.input_ids.tolist() for sequence in run_over] == wanted
        assert len(wanted) < len(table) == cache.tokens.n_sequences
        assert progress.forward_tokens == sum(map(len, wanted))

    def test_units_hold_rows_and_not_tokens(self, decoder, texts, in_memory):
        recipe = tiny.table(decoder, texts, in_memory, unit=1, tokenise={"select": SELECTIONS["last"]})
        (segment,) = tiny.harvest(recipe, texts)[0].segments
        assert (segment.plan.longest, segment.plan.rows_per_unit) == (1, 8)
        assert sum(part.empty for part in segment.plan.parts) == tiny.TEXTS.count("")
        assert segment.plan.rows == segment.plan.sequences - tiny.TEXTS.count("")

    def test_a_run_that_dies_is_finished_by_the_next(self, encoder, tmp_path, short_shards, monkeypatch):
        words = ["", "a few words", "the long one " * 11, "b", *(f"n {n}" for n in range(9))]
        tiny.write_texts(tmp_path / "docs" / "a.jsonl", words)
        tokenise = {"kind": "packed", "select": SELECTIONS["content"]}
        recipe = tiny.table(encoder, tmp_path, unit=64, sites=["embed", "resid.0"], context=24, tokenise=tokenise)
        tiny.harvest(recipe | {"lake": "undisturbed"}, tmp_path)
        expected = objects(tmp_path / "undisturbed")
        for n in range(3, len(expected), 3):
            with monkeypatch.context() as patch:
                MortalStore(patch, n)
                with pytest.raises(Died):
                    tiny.harvest(recipe | {"lake": f"died-{n}"}, tmp_path)
            with monkeypatch.context() as patch:
                patch.setattr("storage.lease.gone", lambda process: True)  # as if the process had died
                tiny.harvest(recipe | {"lake": f"died-{n}"}, tmp_path)
            assert objects(tmp_path / f"died-{n}") == expected, f"died after object {n}"

    @pytest.mark.parametrize("kind", ["documents", "packed"])
    def test_a_certificate_compares_the_rows_that_there_are(self, encoder, texts, in_memory, short_shards, kind):
        tokenise = {"kind": kind, "select": SELECTIONS["content"]}
        cache, _ = tiny.harvest(tiny.table(encoder, texts, in_memory, unit=64, tokenise=tokenise), texts)
        for site in certify(cache, str(encoder), 1000).sites:
            assert site.rows == cache.n_rows
            assert site.good


class TestRoles:
    def test_they_are_of_each_token_and_missing_where_messages_are_not_found(self, decoder, chats, tmp_path):
        folder = tiny.save_decoder(tmp_path / "model")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = tiny.TEMPLATE.replace("<{{", "{{ '?' if 'question' in m.content }}<{{")
        tokenizer.save_pretrained(folder)
        chats["models"]["model"]["name"] = str(folder)
        cache, _ = tiny.harvest(chats, tmp_path)
        roles, documents = cache.tokens.roles(slice(None)), cache.tokens.documents(slice(None))
        assert roles.dtype == np.int8
        assert not roles[documents == 1].any()
        assert cache.tokens.table(["roles"])["roles"].is_null().to_pylist() == [False, True, True, False, False]
        assert "".join(cache.tokens.strings(np.flatnonzero(roles == ROLES.index("assistant")))) == "y"
        (segment,) = cache.segments
        sequences = list(Sequences(segment).touching(0, segment.plan.rows))
        given = [sequence.roles for sequence in sequences]
        assert [one is None for one in given] == [False, True, True, False, False]
        assert np.concatenate([one for one in given if one is not None]).tolist() == roles[documents != 1].tolist()

    def test_a_cache_without_chats_has_none(self, decoder, texts, in_memory):
        cache, _ = tiny.harvest(tiny.table(decoder, texts, in_memory), texts)
        with pytest.raises(InputError, match="this cache's tokens have no roles"):
            cache.tokens.roles(slice(None))


class TestRefusals:
    def test_images_have_no_selection(self, vision, in_memory, tmp_path):
        tiny.write_pictures(tmp_path / "pictures", 1)
        recipe = tiny.table(vision, tmp_path, in_memory, tokenise={"select": SELECTIONS["last"]})
        recipe["corpora"]["docs"] = {"images": str(tmp_path / "pictures" / "*.png")}
        with pytest.raises(InputError, match=r"caches\.texts\.tokenise\.select: a cache of patches has a row for each"):
            tiny.harvest(recipe, tmp_path)

    def test_vocabularies_have_no_selection(self, decoder, in_memory, tmp_path):
        recipe = tiny.table(decoder, tmp_path, in_memory, sites=["embed"], tokenise={"select": SELECTIONS["last"]})
        recipe["corpora"]["docs"] = {"vocabulary": True}
        with pytest.raises(InputError, match=r"caches\.texts\.tokenise\.select: a cache of entries has a row for each"):
            tiny.harvest(recipe, tmp_path)

    def test_a_selection_that_no_token_meets_is_refused(self, chats, tmp_path):
        chats["caches"]["texts"]["tokenise"] = {"select": {"kind": "role", "role": "tool"}}
        with pytest.raises(InputError, match="4 documents have no"):
            tiny.harvest(chats, tmp_path)


def test_jobs_read_a_cache_of_some_tokens(decoder, tmp_path):
    lines = [{"text": f"{'red' if n % 2 else 'blue'} words {n} " * 4, "color": "rb"[n % 2]} for n in range(60)]
    tiny.write_lines(tmp_path / "docs" / "a.jsonl", lines)
    recipe = tiny.table(decoder, tmp_path, sites=["resid.1"], tokenise={"select": SELECTIONS["every"]})
    recipe["corpora"]["docs"]["labels"] = ["color"]
    sae = {"kind": "sae", "cache": "texts", "site": "resid.1", "width": 64, "epochs": 1, "batch": 64}
    recipe["jobs"] = {
        "probe": {"kind": "probe", "cache": "texts", "targets": ["color", {"kind": "position"}], "shuffles": 1},
        "sae": sae | {"activation": {"kind": "topk", "k": 4}, "n_features": 4, "n_examples": 2},
    }
    run(tiny.read(recipe, tmp_path), Progress(live=False))
    lake = Lake(str(tmp_path / "lake"))
    records = {Artifact(lake.artifact_folder(name)).record.kind for name in lake.artifacts()}
    assert records == {"probe", "sae"}
