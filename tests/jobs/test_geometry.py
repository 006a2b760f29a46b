"""The geometry job on caches whose shape was chosen."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Doc

import jobs.geometry as geometry
from jobs.core import linalg
from jobs.core.linalg import unit_rows
from jobs.core.neighbours import nearest
from jobs.geometry.config import Config, Side
from jobs.geometry.figures import readable
from jobs.geometry.points import DocumentMeans, Rows, Source, TokenMeans, choose, states
from storage import InputError, Site
from storage.value import convert
from tests.points import normal, plane, rotation

N_WORDS = 60


def corpus(n_documents=40, length=30, seed=0):
    rng = np.random.default_rng(seed)
    words = np.array([f"w{number}" for number in range(N_WORDS)])
    return [Doc(" ".join(words[rng.integers(N_WORDS, size=length)]), key=f"d{n}") for n in range(n_documents)]


def word_rows(documents, table_VD, noise=0.0, seed=0):
    rows = np.array([int(word[1:]) for doc in documents for word in doc.text.split()])
    rng = np.random.default_rng(seed)
    return (table_VD[rows] + noise * rng.normal(size=(len(rows), table_VD.shape[1]))).astype(np.float32)


def config(**changes):
    settings = {"cache": "a", "site": "resid.0", "skip": 0, "k": 5, "dimension": {"k": 30, "points": 40}}
    return convert(settings | changes, Config, "jobs.geometry")


def values(report):
    return {metric.name: metric.value for metric in report.metrics}


def table(artifact, name):
    return pq.read_table(io.BytesIO(artifact.read(f"{name}.parquet"))).to_pydict()


@pytest.fixture
def pair(make_cache):
    """Two caches whose words lie in the same places but for a rotation, in documents of different order."""
    documents = corpus()
    table_VD = normal(N_WORDS, 8).numpy()
    turned_VE = table_VD @ rotation(8, wider=12).numpy()
    first = make_cache({"resid.0": word_rows(documents, table_VD, noise=0.01)}, documents, name="small.words")
    backwards = documents[::-1]
    second = make_cache({"resid.3": word_rows(backwards, turned_VE, 0.01, 1)}, backwards, name="large.words")
    return {"a": first, "b": second}


AGAINST = {"cache": "b", "site": "resid.3"}


def test_two_rotated_spaces_agree_at_every_scale_and_their_nulls_do_not(pair, run_job):
    report, artifact = run_job(geometry, config(against=AGAINST), pair)
    found = values(report)
    null = {metric.name: metric.null for metric in report.metrics}
    assert found["similarity"] > 0.999
    assert found["weights"] > 0.95
    assert found["overlap"] > 0.95
    assert abs(null["similarity"]) < 0.1
    assert null["overlap"] < 0.25
    assert found["similarity_low"] <= found["similarity"] <= found["similarity_high"]
    expected = {"similarity", "local", "dimension", "points"}
    assert {f"figures/{name}.svg" for name in expected} <= set(artifact.files)
    assert all(artifact.files[f"figures/{name}.svg"].caption for name in expected)
    for name in ("dot", "dot_centred", "similarity_centred", "similarity_without_widest", "similarity_rank"):
        assert found[name] > 0.99
        assert abs(null[name]) < 0.1
    for name in ("weights_k20", "overlap_k20"):
        assert found[name] > 0.9 > null[name]
    lines = table(artifact, "agreement")
    assert np.mean(lines["weights"]) == pytest.approx(found["weights"])
    extremes = table(artifact, "extremes")
    assert len(extremes["string"]) == 4 * 30
    assert extremes["dimension"][:30] == sorted(extremes["dimension"][:30])
    assert {len(near) for near in extremes["neighbours"]} == {5}


def test_token_means_are_the_means_of_the_rows_of_each_token(make_cache, run_job):
    documents = corpus()
    rows_RD = word_rows(documents, normal(N_WORDS, 8).numpy(), noise=1.0)
    cache = make_cache({"resid.0": rows_RD}, documents)
    _, artifact = run_job(geometry, config(metric="cosine"), {"a": cache})
    lines = table(artifact, "first")
    words = np.array([word for doc in documents for word in doc.text.split()])
    means_ND = torch.from_numpy(np.stack([rows_RD[words == name.strip()].mean(0) for name in lines["string"]]))
    near = nearest(unit_rows(means_ND), 5)
    assert lines["neighbours"] == [[lines["string"][j] for j in row] for row in near.indices_QK.tolist()]
    np.testing.assert_allclose(lines["distances"], near.distances_QK, rtol=1e-4)
    assert sum(value is not None for value in lines["dimension"]) == 40


def test_rows_are_matched_by_the_place_where_they_end(pair, run_job):
    report, artifact = run_job(geometry, config(against=AGAINST, points={"kind": "rows"}, n_points=300), pair)
    assert values(report)["similarity"] > 0.99
    first, second = table(artifact, "first"), table(artifact, "second")
    assert first["key"] == second["key"]
    assert len(set(first["key"])) == 300
    assert pair["a"].tokens.strings(np.array(first["id"])) == pair["b"].tokens.strings(np.array(second["id"]))


def test_document_means_are_means_of_the_documents_rows(pair):
    sources = [Source(name, cache.site(cache.sites[0]), cache.tokens, skip=2) for name, cache in pair.items()]
    chosen = choose(DocumentMeans(), sources, 100, seed=0)
    assert sorted(chosen.keys) == sorted(f"d{number}" for number in range(40))
    for source, members_N in zip(sources, chosen.members, strict=True):
        x_ND = states(DocumentMeans(), source, members_N, "cpu")
        for x_D, document in zip(x_ND, members_N.tolist(), strict=True):
            rows = source.activations[source.tokens.document_rows(document)[2:]]
            np.testing.assert_allclose(x_D, rows.mean(0), atol=1e-6)


def test_first_positions_are_left_out_as_asked(make_cache):
    documents = corpus()
    rows_RD = word_rows(documents, normal(N_WORDS, 8).numpy(), noise=0.01)
    starts = np.arange(0, len(rows_RD), 30)
    rows_RD[starts] += 1000
    cache = make_cache({"resid.0": rows_RD}, documents)
    for skip, largest in ((0, 100), (1, 10)):
        source = Source("a", cache.site("resid.0"), cache.tokens, skip)
        for points in (TokenMeans(), Rows()):
            members_N = choose(points, [source], 1000, seed=0).members[0]
            assert (states(points, source, members_N, "cpu").abs().max() > largest) == (skip == 0)


def test_rare_tokens_are_left_out_and_a_leading_space_is_part_of_a_token(make_cache):
    documents = [*corpus(), Doc("w0 rare w1", key="last")]
    table_VD = normal(N_WORDS, 8).numpy()
    rows_RD = np.concatenate([word_rows(documents[:-1], table_VD), normal(3, 8, seed=5).numpy()])
    cache = make_cache({"resid.0": rows_RD}, documents)
    source = Source("a", cache.site("resid.0"), cache.tokens, skip=0)
    assert " rare" in choose(TokenMeans(), [source], 100, seed=0).keys
    assert " rare" not in choose(TokenMeans(min_count=2), [source], 100, seed=0).keys
    assert choose(TokenMeans(), [source], 100, seed=0).found == (N_WORDS + 1,)


def test_words_are_matched_by_id_where_both_caches_have_one_tokenizer(make_cache):
    words = [f"w{number}" for number in range(8)]
    text = make_cache({"resid.0": normal(8, 8).numpy()}, [Doc(" ".join(words), key="text")])
    vocabulary = make_cache({"embed": normal(8, 8).numpy()}, [Doc(word, key=word) for word in words])
    for tokenizer, shared in (("", 1), ("digest", 8)):  # by string, only the word that has no space before it
        sources = [
            Source(name, cache.site(cache.sites[0]), cache.tokens, 0, tokenizer)
            for name, cache in (("vocabulary", vocabulary), ("text", text))
        ]
        chosen = choose(TokenMeans(), sources, 100, seed=0)
        assert chosen.shared == shared
        assert np.array_equal(*chosen.members)
        assert set(chosen.strings) <= set(words)


def test_the_same_points_are_drawn_whatever_the_order_of_caches_and_documents(pair):
    sources = [Source(name, cache.site(cache.sites[0]), cache.tokens, skip=0) for name, cache in pair.items()]
    for points in (TokenMeans(), DocumentMeans()):
        forward, backward = choose(points, sources, 25, seed=3), choose(points, sources[::-1], 25, seed=3)
        assert forward.keys == backward.keys
        assert forward.sha256 == backward.sha256
        assert forward.keys == sorted(forward.keys)
        assert len(set(forward.keys)) == 25
        assert choose(points, sources, 25, seed=4).keys != forward.keys
        x_ND = states(points, sources[0], forward.members[0], "cpu")
        assert torch.equal(x_ND, states(points, sources[0], backward.members[1], "cpu"))


def test_order_of_rows_and_size_of_blocks_change_no_number(pair, make_cache, run_job, monkeypatch):
    before = values(run_job(geometry, config(against=AGAINST), pair)[0])
    monkeypatch.setattr(linalg, "WORKING_BYTES", 6000)
    monkeypatch.setattr("jobs.geometry.points.BLOCK", 111)
    order = np.random.default_rng(0).permutation(40)
    turned = {}
    for name, site in (("a", "resid.0"), ("b", "resid.3")):
        rows = np.asarray(pair[name].site(Site.parse(site))[:]).reshape(40, 30, -1)[order]
        documents = [corpus()[n] for n in (order if name == "a" else 39 - order)]
        turned[name] = make_cache({site: rows.reshape(1200, -1)}, documents, name=f"{name}.turned")
    after = values(run_job(geometry, config(against=AGAINST), turned)[0])
    for name, value in before.items():
        assert after[name] == pytest.approx(value, rel=1e-6, abs=1e-8), name


def test_the_same_config_gives_the_same_numbers(make_cache, run_job):
    documents = corpus()
    cache = make_cache({"resid.0": word_rows(documents, normal(N_WORDS, 8).numpy(), 0.5)}, documents)
    assert run_job(geometry, config(), {"a": cache})[0] == run_job(geometry, config(), {"a": cache})[0]


def test_few_neighbours_are_said_to_saturate(pair, run_job):
    few = {"k": 6, "points": 40}
    with pytest.raises(
        InputError, match=r"dimension\.k = 6 is not above 8, the width of a resid\.0: .* dimension\.allow_saturated"
    ):
        run_job(geometry, config(dimension=few), pair)
    report, _ = run_job(geometry, config(dimension=few | {"allow_saturated": True}), pair)
    assert "(saturated)" in report.headline
    assert any("raise dimension.k above the width" in note for note in report.notes)


def test_what_does_not_vary_is_left_out_of_the_metrics_and_named(make_cache, run_job):
    documents = corpus()
    flat = plane(2, n=N_WORDS, width=6).numpy()
    caches = {
        "a": make_cache({"resid.0": word_rows(documents, flat)}, documents, name="small.words"),
        "b": make_cache({"resid.3": word_rows(documents, flat)}, documents, name="large.words"),
    }
    report, _ = run_job(geometry, config(against=AGAINST, dimension={"k": 30, "tau": 0.999, "points": 40}), caches)
    assert "dimension_r" not in values(report)
    assert any("dimension_r" in note for note in report.notes)


def test_too_few_points_are_refused_with_what_was_found(pair, run_job):
    with pytest.raises(InputError, match=r"dimension.k = 500 .* found 60 .* lower dimension.k"):
        run_job(geometry, config(dimension={"k": 500}), pair)


def test_skipping_every_row_is_refused(pair, run_job):
    with pytest.raises(InputError, match="set skip = 0"):
        run_job(geometry, config(skip=30), pair)


def test_rows_that_are_not_finite_are_refused(make_cache, run_job):
    documents = corpus()
    rows_RD = word_rows(documents, normal(N_WORDS, 8).numpy())
    rows_RD[77, 3] = np.inf
    cache = make_cache({"resid.0": rows_RD}, documents)
    with pytest.raises(InputError, match="not finite"):
        run_job(geometry, config(), {"a": cache})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_points": 20}, "dimension.k is 30 but n_points is 20"),
        ({"against": {"cache": "a", "site": "resid.0"}}, "against is a at resid.0"),
        ({"metric": "manhattan"}, "metric"),
        ({"permutations": 3}, "permutations"),
        ({"points": {"kind": "sentences"}}, "points"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        config(**changes)


def test_the_job_reads_the_sites_it_names():
    reads = geometry.reads(config(against=AGAINST))
    assert [(read.cache, read.sites) for read in reads] == [("a", (Site("resid", 0),)), ("b", (Site("resid", 3),))]
    assert len(geometry.reads(config())) == 1
    assert config(points={"kind": "rows"}).points == Rows()
    assert config().points == TokenMeans()
    assert config(points={"kind": "document_means"}).points == DocumentMeans()
    assert config(against=AGAINST).sides[1] == Side(cache="b", site=Site("resid", 3))


def test_listed_strings_can_be_drawn_by_the_font():
    assert readable(" a\nb", 10) == "·a·b"
    assert readable("漢", 10) == "□"
    assert readable("abcdefgh", 5) == "ab…gh"


def test_points_that_are_all_the_same_are_refused(make_cache, run_job):
    documents = corpus()
    cache = make_cache({"resid.0": np.ones((len(word_rows(documents, normal(N_WORDS, 8).numpy())), 8))}, documents)
    with pytest.raises(InputError, match=r"a resid\.0 has the same state at all 60 points: take another site"):
        run_job(geometry, config(), {"a": cache})
