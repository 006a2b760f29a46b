"""Maps between vocabularies: planted ones come back, nulls are empty, and models that learnt one language have one."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Doc

import jobs.emb2emb as emb2emb
from jobs.alignment.maps import LeastSquares, Procrustes, Ridge
from jobs.core import linalg
from jobs.emb2emb.config import Config, Fold, Hidden, Norm
from jobs.emb2emb.maps import Logit, LowRank, fit, moments, reduced, settled, uncentred
from storage import InputError, Site


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal_rows(rows, columns, seed=5):
    return torch.linalg.qr(normal(columns, rows, seed=seed)).Q.T


def about_origin(x_NS, y_NT):
    return uncentred(moments(x_NS, y_NT, torch.arange(len(x_NS))))


class TestAlgebra:
    """T11."""

    @pytest.mark.parametrize(("s", "t"), [(12, 20), (20, 12), (16, 16)])
    def test_a_linear_map_of_the_table_is_found_and_carries_vectors(self, s, t):
        x_NS, A_ST = normal(300, s), normal(s, t, seed=1)
        fitted = fit(LeastSquares(), about_origin(x_NS, x_NS @ A_ST))
        assert (fitted.M_ST - A_ST).abs().max() < 1e-8
        v_S = normal(s, seed=2)
        assert (v_S @ fitted.M_ST - v_S @ A_ST).abs().max() < 1e-8
        assert torch.linalg.matrix_rank(fitted.M_ST) == min(s, t)

    @pytest.mark.parametrize(("s", "t"), [(12, 20), (20, 12)])
    def test_matching_logits_is_another_map(self, s, t):
        x_NS, A_ST = normal(300, s), normal(s, t, seed=1)
        fitted = fit(Logit(), about_origin(x_NS, x_NS @ A_ST))
        assert (fitted.M_ST - A_ST).abs().max() > 0.1
        expected = torch.linalg.pinv(x_NS @ A_ST) @ x_NS  # v_t = U_t^+ U_s v_s for a column v_s
        assert (fitted.M_ST - expected.T).abs().max() < 1e-8

    def test_matching_logits_is_the_same_map_where_the_rows_of_the_map_are_orthonormal(self):
        x_NS, A_ST = normal(300, 12), orthonormal_rows(12, 20)
        sums = about_origin(x_NS, x_NS @ A_ST)
        for kind in (LeastSquares(), Logit()):
            assert (fit(kind, sums).M_ST - A_ST).abs().max() < 1e-8

    def test_a_rotation_is_found_by_procrustes(self):
        x_NS, A_ST = normal(300, 12), orthonormal_rows(12, 20)
        found = fit(Procrustes(), about_origin(x_NS, 3 * x_NS @ A_ST)).M_ST
        assert (found - 3 * A_ST).abs().max() < 1e-8

    def test_a_map_of_low_rank_predicts_as_its_own_rank_does_and_no_worse_than_any_other_of_it(self):
        x_NS = normal(400, 15) * torch.linspace(0.2, 3, 15)
        y_NT = x_NS @ normal(15, 4, seed=1) @ normal(4, 11, seed=2) + 0.3 * normal(400, 11, seed=3)
        sums = about_origin(x_NS, y_NT)
        full, four = fit(LeastSquares(), sums).M_ST, reduced(sums, 4).M_ST
        assert torch.linalg.matrix_rank(four) == 4
        u, values, v = torch.linalg.svd(full, full_matrices=False)
        cut = u[:, :4] * values[:4] @ v[:4]  # of the matrix, not of what it predicts
        errors = [float((x_NS @ M - y_NT).square().sum()) for M in (full, four, cut)]
        assert errors[0] < errors[1] < errors[2]
        assert errors[1] < 1.02 * errors[0]

    def test_validation_chooses_the_rank_that_the_tables_have(self):
        A_ST = normal(15, 4, seed=1) @ normal(4, 11, seed=2)
        parts = [normal(60, 15, seed=seed) for seed in (3, 4)]
        noisy = [about_origin(x, x @ A_ST + 2 * normal(60, 11, seed=9 + n)) for n, x in enumerate(parts)]
        assert settled(LowRank(ranks=(1, 2, 4, 11)), *noisy) == LowRank(ranks=(4,))

    def test_sums_do_not_depend_on_blocks_or_on_the_order_of_rows(self, monkeypatch):
        x_NS, y_NT = normal(500, 7).float() + 5, normal(500, 9, seed=1).float() - 3
        whole = moments(x_NS, y_NT, torch.arange(500))
        monkeypatch.setattr(linalg, "WORKING_BYTES", 3000)
        order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
        pieces = moments(x_NS, y_NT, order)
        for name in ("mean_S", "xx_SS", "yy_TT", "xy_ST"):
            torch.testing.assert_close(getattr(pieces, name), getattr(whole, name), rtol=1e-9, atol=1e-9)


WORDS = [f"w{n:03d}" for n in range(400)]


def tables(make_cache, x_NS, y_NT, words=WORDS, other=WORDS):
    """Vocabulary caches of two models with unlike tokenizers; `other` are the words of the second."""

    def vocabulary(words, table, name):
        documents = [
            Doc(word, {"entry": "text", "bytes": word.encode().hex()}, key=str(n)) for n, word in enumerate(words)
        ]
        return make_cache({"unembed": table}, documents, name=name)

    return {"s": vocabulary(words, np.asarray(x_NS), "one"), "t": vocabulary(other, np.asarray(y_NT), "two")}


def config(**kw):
    return Config(source="s", target="t", **kw)


def metrics(report):
    return {metric.name: metric for metric in report.metrics}


@pytest.fixture
def planted(make_cache):
    """Tables of which the second is a map of the first with noise, and its words in another order."""
    x_NS = normal(400, 10)
    y_NT = x_NS @ normal(10, 16, seed=1) + 0.5 * normal(400, 16, seed=2)
    order = np.random.default_rng(0).permutation(400)
    return tables(make_cache, x_NS, y_NT[order], other=[WORDS[n] for n in order])


def test_a_planted_map_is_found_by_the_tokens_bytes_and_its_null_is_empty(run_job, planted):
    report, artifact = run_job(emb2emb, config(), planted)
    found = metrics(report)
    assert found["least-squares R2"].value > 0.9
    assert found["least-squares R2"].null < 0.02
    assert found["least-squares retrieval@1"].value > 0.9
    assert found["least-squares retrieval@1"].null < 0.05
    assert found["least-squares norm ratio"].value == pytest.approx(1, abs=0.1)
    assert found["least-squares norm ratio"].null < 0.5
    assert found["least-squares rank"].value == 10
    M_ST = emb2emb.load(artifact, "least-squares").M_ST
    assert (M_ST - normal(10, 16, seed=1)).abs().max() < 0.2
    assert emb2emb.load(artifact, "permuted").M_ST.norm() < 0.3 * M_ST.norm()


def test_what_it_leaves_can_be_read_and_says_the_same_as_its_report(run_job, planted):
    kinds = (LeastSquares(), Ridge(), LowRank(ranks=(2, 10)), Procrustes(), Logit())
    report, artifact = run_job(emb2emb, config(maps=kinds), planted)
    table = pq.read_table(io.BytesIO(artifact.read("maps.parquet"))).to_pylist()
    names = ["least-squares", "ridge", "low-rank", "procrustes", "logit"]
    assert [line["map"] for line in table[::2]] == names
    for line, null in zip(table[::2], table[1::2], strict=True):
        metric = metrics(report)[f"{line['map']} R2"]
        assert (metric.value, metric.null) == (line["r2"], null["r2"])
    assert {file.name for file in artifact.record.files} >= {
        "figures/maps.svg",
        "figures/singular.svg",
        "singular.parquet",
    }
    assert any("low-rank rank 10" in note for note in report.notes)
    assert any("400 tokens of 400 shared by vocabularies of 400 and 400; sha256" in note for note in report.notes)


def test_held_out_tokens_are_not_fitted(run_job, make_cache):
    """Pure noise of as many dimensions as tokens can be learnt by heart, and not told beforehand."""
    caches = tables(make_cache, normal(400, 260), normal(400, 12, seed=1))
    report, _ = run_job(emb2emb, config(maps=(LeastSquares(),)), caches)
    assert metrics(report)["least-squares R2"].value < 0


def test_centring_takes_an_offset_out_of_the_map(run_job, make_cache):
    x_NS = normal(400, 6) + 4
    caches = tables(make_cache, x_NS, (x_NS - 4) @ normal(6, 5, seed=1) + 7)
    found = {
        center: metrics(run_job(emb2emb, config(center=center, maps=(LeastSquares(),)), caches)[0])[
            "least-squares R2"
        ].value
        for center in (False, True)
    }
    assert found[True] == pytest.approx(1, abs=1e-6)
    assert found[False] < 0.999


def test_the_gain_of_the_final_norm_is_folded_in(run_job, make_cache):
    """Tables that differ by the gain alone are one rotation apart once it is folded."""
    x_NS, gain = normal(400, 8), torch.linspace(0.2, 3, 8, dtype=torch.float64)
    caches = tables(make_cache, x_NS / gain, x_NS @ orthonormal_rows(8, 8))
    states = normal(200, 8, seed=3)
    normed = states * (states.square().mean(1, keepdim=True) + 1e-6).rsqrt()
    for name, scale in (("a", gain), ("b", torch.ones(8, dtype=torch.float64))):
        sites = {"resid.1": states.numpy(), "unembed": (normed * scale).numpy()}
        caches[name] = make_cache(sites, [Doc(" ".join(f"w{n}" for n in range(200)))])
    norms = Fold(source=Norm(cache="a", site=Site.parse("resid.1")), target=Norm(cache="b", site=Site.parse("resid.1")))
    found = [
        metrics(run_job(emb2emb, config(maps=(Procrustes(),), fold=fold), caches)[0])["procrustes R2"].value
        for fold in (None, norms)
    ]
    assert found[1] == pytest.approx(1, abs=1e-4)
    assert found[0] < 0.9


def test_order_of_rows_changes_no_number(run_job, make_cache):
    x_NS = normal(400, 10)
    y_NT = x_NS @ normal(10, 16, seed=1) + normal(400, 16, seed=2)
    orders = [np.arange(400), np.random.default_rng(1).permutation(400)]
    found = [
        run_job(emb2emb, config(), tables(make_cache, x_NS[o], y_NT[o], [WORDS[n] for n in o], [WORDS[n] for n in o]))[
            0
        ]
        for o in orders
    ]
    for one, other in zip(*(report.metrics for report in found), strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-6)
        assert one.null == (None if other.null is None else pytest.approx(other.null, rel=1e-5, abs=1e-9))


class TestRefusals:
    """Bad input, with its cure."""

    def test_too_few_shared_tokens(self, run_job, make_cache):
        caches = tables(make_cache, normal(400, 4), normal(400, 5), other=[f"x{n}" for n in range(350)] + WORDS[:50])
        with pytest.raises(
            InputError, match=r"share 50 tokens, wanted at least 100: compare models .* or ask for fewer"
        ):
            run_job(emb2emb, config(), caches)

    def test_a_rank_above_both_widths(self, run_job, planted):
        with pytest.raises(
            InputError, match=r"ranks = \[11, 12\] are all above 10, the smaller width of s \(10\) and t \(16\)"
        ):
            run_job(emb2emb, config(maps=(LowRank(ranks=(11, 12)),)), planted)

    def test_a_map_that_is_not_there(self, run_job, planted):
        _, artifact = run_job(emb2emb, config(maps=(Procrustes(),)), planted)
        with pytest.raises(InputError, match="holds no map 'logit'; it holds procrustes, permuted"):
            emb2emb.load(artifact, "logit")

    def test_texts_that_are_not_the_same(self, run_job, planted, make_cache):
        for name in "ab":
            planted[name] = make_cache({"resid.0": normal(3, 4).numpy()}, [Doc("u v w", key=name)])
        site = Site.parse("resid.0")
        kind = Hidden(source="a", target="b", source_site=site, target_site=site)
        with pytest.raises(InputError, match=r"share no document: .* harvest both from the same corpus"):
            run_job(emb2emb, config(maps=(kind,)), planted)

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"maps": ()}, "at least one map"),
            ({"maps": (Logit(), Logit())}, "one of each kind at most"),
            ({"held_out": 0.6, "validation": 0.5}, "leave no tokens to fit on"),
        ],
    )
    def test_configurations(self, wrong, says):
        with pytest.raises(ValueError, match=says):
            config(**wrong)


class TestPair:
    """T12: two models that learnt one language."""

    @pytest.fixture
    def caches(self, pairs):
        pair = pairs.tied
        return {
            "s": pair.narrow_vocabulary,
            "t": pair.wide_vocabulary,
            "narrow": pair.narrow_texts,
            "wide": pair.wide_texts,
        }

    def test_vectors_of_held_out_tokens_are_told(self, run_job, caches):
        found = metrics(run_job(emb2emb, config(), caches)[0])
        assert found["least-squares R2"].value >= 0.35
        assert found["least-squares retrieval@10"].value >= 0.7
        assert found["least-squares R2"].null <= 0.05
        assert found["least-squares norm ratio"].value < 1

    def test_a_map_of_hidden_states_is_fitted_to_rows_of_text(self, run_job, caches):
        kind = Hidden(
            source="narrow", target="wide", source_site=Site.parse("resid.1"), target_site=Site.parse("resid.2")
        )
        report, artifact = run_job(emb2emb, config(maps=(LeastSquares(), kind)), caches)
        found = metrics(report)
        assert found["hidden R2 of states"].value > 0.5
        assert found["hidden R2 of states"].null < 0.05
        assert emb2emb.load(artifact, "hidden").M_ST.shape == (48, 64)
        assert found["hidden R2"].null < 0.05
