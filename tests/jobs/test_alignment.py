"""Maps between caches: planted answers, slow references, and the job from matched rows to its report."""

import io
from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.linalg
import torch
from conftest import Doc
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.metrics import r2_score

from jobs import alignment
from jobs.alignment.identity import TokenMeans, TokenSums, token_classes
from jobs.alignment.maps import Fitted, LeastSquares, Procrustes, Ridge, fit, judge
from jobs.alignment.match import match
from jobs.alignment.moments import Sums
from jobs.alignment.similarity import cka_without, effective_rank, fit_cca, retrieval, widest
from jobs.core.splits import split_documents
from storage.cache import create
from storage.errors import InputError
from storage.index import TokenIndex
from storage.manifest import CacheIdentity, Claim, ModelIdentity, SourceFile, make_record
from storage.segment import part_name
from storage.tokens import Span, write_part
from storage.value import convert

LEAST_SQUARES, PROCRUSTES = LeastSquares(), Procrustes()


def sums_of(x_NS, y_NT, chunk=97):
    x_NS, y_NT = torch.as_tensor(x_NS, dtype=torch.float64), torch.as_tensor(y_NT, dtype=torch.float64)
    sums = Sums([x_NS[:50].mean(0)], [y_NT[:50].mean(0)])
    for x, y in zip(x_NS.split(chunk), y_NT.split(chunk), strict=True):
        sums.add(x, y)
    return sums


def pair_of(x_NS, y_NT):
    return sums_of(x_NS, y_NT).pair(0, 0)


def fit_rows(kind, x_NS, y_NT):
    rows = pair_of(x_NS, y_NT)
    return fit(kind, rows, rows)


def rotation(rng, d):
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def relative(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()


# maps


@pytest.mark.parametrize("kind", [LEAST_SQUARES, PROCRUSTES], ids=["least-squares", "procrustes"])
def test_a_planted_rotation_with_scale_and_offset_is_recovered(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 24)) * rng.uniform(0.2, 3, 24) + 5
    Q = rotation(rng, 24)
    fitted = fit_rows(kind, x, 1.7 * x @ Q - 3)
    assert relative(fitted.M_ST, 1.7 * Q) < 1e-6
    assert relative(fitted.apply(torch.as_tensor(x)), 1.7 * x @ Q - 3) < 1e-6


def test_procrustes_without_scale_is_a_rotation_even_where_data_shrink():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 10))
    M = fit_rows(Procrustes(scale=False), x, 0.1 * x @ rotation(rng, 10) + 0.05 * rng.normal(size=(500, 10))).M_ST
    assert relative(M @ M.T, np.eye(10)) < 1e-10


@pytest.mark.parametrize(("s", "t"), [(12, 20), (20, 12)])
def test_a_planted_map_between_different_widths_is_recovered(s, t):
    rng = np.random.default_rng(2)
    x, M = rng.normal(size=(600, s)) + 2, rng.normal(size=(s, t))
    fitted = fit_rows(LEAST_SQUARES, x, x @ M + 1)
    assert relative(fitted.M_ST, M) < 1e-6
    assert torch.linalg.matrix_rank(fitted.M_ST) == min(s, t)


@pytest.mark.parametrize(("s", "t"), [(6, 9), (9, 6)])
def test_procrustes_between_different_widths_is_that_of_zero_padded_rows(s, t):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(400, s)), rng.normal(size=(400, t))
    y[:, :5] += x[:, :5]
    d = max(s, t)
    padded = [np.pad(z - z.mean(0), ((0, 0), (0, d - z.shape[1]))) for z in (x, y)]
    R = scipy.linalg.orthogonal_procrustes(*padded)[0]
    M = fit_rows(Procrustes(scale=False), x, y).M_ST
    if s < t:
        assert relative(M, R[:s, :t]) < 1e-8
    else:  # the padded target leaves R's other columns free, and them alone
        assert relative(M, R[:, :t]) < 1e-8


def test_ridge_is_scikit_learns():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(300, 15)) * rng.uniform(0.1, 4, 15) + 3, rng.normal(size=(300, 7))
    y[:, :3] += x[:, :3]
    variance = x.var(0).mean()
    for penalty in (1e-3, 0.3):
        ours = fit_rows(Ridge(penalties=(penalty,)), x, y)
        theirs = SklearnRidge(alpha=penalty * variance * len(x)).fit(x, y)
        assert relative(ours.M_ST, theirs.coef_.T) < 1e-9
        assert relative(ours.apply(torch.as_tensor(x)), theirs.predict(x)) < 1e-9


def test_the_ridge_penalty_is_the_one_that_does_best_on_validation_rows():
    rng = np.random.default_rng(5)
    M = rng.normal(size=(60, 5))
    x = rng.normal(size=(80, 60))
    held = rng.normal(size=(500, 60))
    noise = 8.0
    train, validation = (pair_of(z, z @ M + noise * rng.normal(size=(len(z), 5))) for z in (x, held))
    path = (1e-6, 1e-3, 1e-1, 1.0, 30.0)
    singles = [judge(fit(Ridge(penalties=(p,)), train, validation), validation).r2 for p in path]
    assert fit(Ridge(penalties=path), train, validation).penalty == path[int(np.argmax(singles))]
    assert int(np.argmax(singles)) > 0


def test_least_squares_with_fewer_rows_than_dimensions_is_the_least_norm_solution():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(30, 50)), rng.normal(size=(30, 4))
    expected = np.linalg.pinv(x - x.mean(0)) @ (y - y.mean(0))
    assert relative(fit_rows(LEAST_SQUARES, x, y).M_ST, expected) < 1e-8


def test_a_map_is_judged_as_scikit_learn_would_on_the_rows_themselves():
    rng = np.random.default_rng(7)
    x, held = rng.normal(size=(200, 8)) + 1, rng.normal(size=(150, 8)) * 2 - 1
    M = rng.normal(size=(8, 5))
    y, y_held = (z @ M + rng.normal(size=(len(z), 5)) * np.arange(1, 6) for z in (x, held))
    fitted = fit_rows(LEAST_SQUARES, x, y)
    mapped = fitted.apply(torch.as_tensor(held)).numpy()
    judged = judge(fitted, pair_of(held, y_held))
    assert judged.r2 == pytest.approx(r2_score(y_held, mapped, multioutput="variance_weighted"), abs=1e-10)
    assert judged.median_r2 == pytest.approx(np.median(r2_score(y_held, mapped, multioutput="raw_values")), abs=1e-10)
    ratio = np.linalg.norm(mapped - y.mean(0)) / np.linalg.norm(y_held - y.mean(0))
    assert judged.norm_ratio == pytest.approx(ratio, abs=1e-10)


def test_effective_rank_counts_equal_singular_values():
    assert effective_rank(torch.diag(torch.tensor([2.0, 2, 2, 0, 0]))) == pytest.approx(3)


# moments, CKA, CCA, retrieval


def test_sums_do_not_depend_on_blocks_or_order_and_add_up():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(700, 6)) + 100, rng.normal(size=(700, 4)) @ rng.normal(size=(4, 4))
    whole = sums_of(x, y, chunk=700)
    order = rng.permutation(700)
    shift = [torch.as_tensor(z[:50].mean(0)) for z in (x, y)]
    halves = [Sums([shift[0]], [shift[1]]) for _ in range(2)]
    for half, rows in zip(halves, np.split(order, 2), strict=True):
        half.add(torch.as_tensor(x[rows]), torch.as_tensor(y[rows]))
    for other in (sums_of(x, y, chunk=33), halves[0].plus(halves[1])):
        assert relative(other.pair(0, 0).xy_ST, whole.pair(0, 0).xy_ST) < 1e-10
        assert other.cka(0, 0) == pytest.approx(whole.cka(0, 0), rel=1e-9)
    assert relative(whole.pair(0, 0).xx_SS, (x - x.mean(0)).T @ (x - x.mean(0))) < 1e-9


def test_every_pair_of_several_sites_has_the_moments_and_cka_it_would_have_alone():
    rng = np.random.default_rng(9)
    xs, ys = [rng.normal(size=(120, d)) for d in (3, 5)], [rng.normal(size=(120, d)) for d in (4, 2, 6)]
    ys[2][:, :3] += xs[0]
    sums = Sums([torch.zeros(3).double(), torch.zeros(5).double()], [torch.zeros(d).double() for d in (4, 2, 6)])
    sums.add(torch.as_tensor(np.hstack(xs)), torch.as_tensor(np.hstack(ys)))
    for i, x in enumerate(xs):
        for j, y in enumerate(ys):
            assert relative(sums.pair(i, j).xy_ST, pair_of(x, y).xy_ST) < 1e-10
            assert sums.cka(i, j) == pytest.approx(sums_of(x, y).cka(0, 0), abs=1e-10)


def slow_hsic(K, L):
    """Song et al. (2012), eq. 5, from the kernels themselves."""
    n = len(K)
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    one = np.ones(n)
    middle = (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    return (np.trace(K @ L) + middle - 2 / (n - 2) * (one @ K @ L @ one)) / (n * (n - 3))


def test_cka_equals_hsic_of_the_kernels():
    rng = np.random.default_rng(10)
    x = rng.normal(size=(90, 7)) + 4
    y = np.hstack([x[:, :3] @ rng.normal(size=(3, 5)), rng.normal(size=(90, 4))]) - 2
    K, L = x @ x.T, y @ y.T
    expected = slow_hsic(K, L) / np.sqrt(slow_hsic(K, K) * slow_hsic(L, L))
    assert sums_of(x, y).cka(0, 0) == pytest.approx(expected, abs=1e-9)


def test_cka_ignores_rotation_scale_and_offset_but_not_other_maps():
    rng = np.random.default_rng(11)
    x = rng.normal(size=(300, 8)) * np.arange(1, 9)
    y = x[:, :4] + rng.normal(size=(300, 4))
    before = sums_of(x, y).cka(0, 0)
    assert sums_of(3 * x @ rotation(rng, 8) + 7, y).cka(0, 0) == pytest.approx(before, abs=1e-9)
    assert abs(sums_of(x / np.arange(1, 9), y).cka(0, 0) - before) > 0.05


def test_debiased_cka_of_unrelated_rows_is_zero_where_the_biased_one_is_not():
    rng = np.random.default_rng(12)
    pairs = [(rng.normal(size=(60, 80)), rng.normal(size=(60, 80))) for _ in range(20)]
    none = torch.zeros(80, 0).double()
    assert abs(np.mean([sums_of(x, y).cka(0, 0) for x, y in pairs])) < 0.02
    assert np.mean([cka_without(pair_of(x, y), none, none) for x, y in pairs]) > 0.5


def test_cka_without_the_widest_directions_is_that_of_the_rest():
    rng = np.random.default_rng(13)
    shared, x, y = rng.normal(size=(500, 1)), rng.normal(size=(500, 6)), rng.normal(size=(500, 6))
    x, y = np.hstack([50 * shared, x]) @ rotation(rng, 7), np.hstack([80 * shared, y]) @ rotation(rng, 7)
    rows = pair_of(x, y)
    assert sums_of(x, y).cka(0, 0) > 0.99
    assert cka_without(rows, widest(rows.xx_SS, 1), widest(rows.yy_TT, 1)) < 0.1
    one, other = ((z - z.mean(0)) for z in (x, y))
    for z in (one, other):
        top = np.linalg.svd(z, full_matrices=False)[2][0]
        z -= np.outer(z @ top, top)
    norm = np.linalg.norm
    expected = norm(one.T @ other) ** 2 / (norm(one.T @ one) * norm(other.T @ other))
    assert cka_without(rows, widest(rows.xx_SS, 1), widest(rows.yy_TT, 1)) == pytest.approx(expected, abs=1e-9)


def planted_subspace(rng, n, mix_x, mix_y, k=5):
    shared = rng.normal(size=(n, k))
    x = np.hstack([shared, rng.normal(size=(n, len(mix_x) - k))]) @ mix_x
    y = np.hstack([shared, rng.normal(size=(n, len(mix_y) - k))]) @ mix_y
    return x, y


def test_cca_finds_as_many_shared_dimensions_as_were_planted_on_rows_it_did_not_see():
    rng = np.random.default_rng(14)
    mix_x, mix_y = rng.normal(size=(12, 12)), rng.normal(size=(16, 16))
    train, test = (pair_of(*planted_subspace(rng, 4000, mix_x, mix_y)) for _ in range(2))
    held_out = fit_cca(train).correlations(test).numpy()
    assert (held_out > 0.999).sum() == 5
    assert np.abs(held_out[5:]).max() < 0.1


def test_cca_on_its_own_rows_gives_the_singular_values_of_the_whitened_product():
    rng = np.random.default_rng(15)
    x, y = planted_subspace(rng, 300, rng.normal(size=(8, 8)), rng.normal(size=(6, 6)), k=2)
    qx, qy = (np.linalg.qr(z - z.mean(0))[0] for z in (x, y))
    rows = pair_of(x, y)
    assert np.allclose(fit_cca(rows).correlations(rows), np.linalg.svd(qx.T @ qy)[1][:6], atol=1e-8)


def test_svcca_drops_components_of_little_variance():
    rng = np.random.default_rng(16)
    x, y = rng.normal(size=(500, 5)), rng.normal(size=(500, 5))
    tiny = rng.normal(size=(500, 1))
    rows = pair_of(np.hstack([x, 1e-3 * tiny]), np.hstack([y, 1e-3 * tiny]))
    assert fit_cca(rows).correlations(rows).max() > 0.999
    kept = fit_cca(rows, variance=0.99)
    assert kept.source_SK.shape == (6, 5)
    assert kept.correlations(rows).max() < 0.5


def test_retrieval_equals_a_slow_count_with_ties_shared_out():
    rng = np.random.default_rng(17)
    target = rng.normal(size=(50, 4))
    target[10:15] = target[10]
    mapped = target + rng.normal(size=(50, 4))
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (mapped, target)]
    cosine = unit[0] @ unit[1].T
    for k in (1, 10):
        hits = 0.0
        for i in range(50):
            better = sum(cosine[i, j] > cosine[i, i] + 1e-9 for j in range(50))
            tied = sum(abs(cosine[i, j] - cosine[i, i]) <= 1e-9 for j in range(50))
            hits += min(1.0, max(0.0, (k - better) / tied))
        found = retrieval(torch.as_tensor(mapped), torch.as_tensor(target), (1, 10), block=16)
        assert found[k] == pytest.approx(hits / 50)


def test_retrieval_from_one_point_is_at_chance():
    target = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    found = retrieval(torch.zeros(40, 6), target, (1, 10))
    assert found == {1: pytest.approx(1 / 40), 10: pytest.approx(10 / 40)}


# token identity


def test_the_token_baseline_is_each_tokens_training_mean():
    rng = np.random.default_rng(18)
    means = rng.normal(size=(9, 3)) * 4
    tokens = {part: rng.integers(0, 9 if part != "train" else 8, size=400) for part in ("train", "validation", "test")}
    rows = {part: means[ids] + rng.normal(size=(400, 3)) for part, ids in tokens.items()}
    sums = {}
    for part in tokens:
        classes, n = token_classes(tokens["train"], tokens[part])
        sums[part] = TokenSums(n, torch.ones(3).double())
        sums[part].add(torch.as_tensor(classes), torch.as_tensor(rows[part]))
    assert (token_classes(tokens["train"], np.array([8]))[0] == 0).all()  # never seen in training
    baseline = TokenMeans.fit(sums["train"], sums["validation"], slice(0, 3))
    predicted = np.stack(
        [rows["train"][tokens["train"] == t].mean(0) if t < 8 else rows["train"].mean(0) for t in tokens["test"]]
    )
    judged = sums["test"].judge(baseline.mean_VT, slice(0, 3))
    expected = r2_score(rows["test"], predicted, multioutput="variance_weighted")
    assert judged.r2 == pytest.approx(expected, abs=2e-3)  # up to the smoothing that validation chose
    classes, _ = token_classes(tokens["train"], tokens["test"])
    exact = r2_score(rows["test"], baseline.mean_VT[torch.as_tensor(classes)].numpy(), multioutput="variance_weighted")
    assert judged.r2 == pytest.approx(exact, abs=1e-10)


# matching


def token_index(lake, name, spans) -> TokenIndex:
    """The token index of a cache with these spans and no site."""
    model = ModelIdentity(name=name, revision="", weights=name, config="", dtype="float32")
    identity = CacheIdentity(model=model, tokenizer="", corpus={"files": name}, tokenisation={}, dtype="float32")
    record = make_record(name, identity, {})
    segment = create(lake.folder / "caches" / record.folder, record).next_segment()
    segment.claim(Claim(files=(SourceFile(path="0.txt", size=1),), parts=((0,),), unit=256, shard_bytes=2**26))
    write_part(segment.folder, part_name(0), spans)
    segment.fix()
    return TokenIndex([segment])


def span(number, key, text, cuts, ids=None, **more):
    """One document as one sequence; cuts are (begin, end) of its tokens."""
    begin, end = np.array(cuts, dtype=np.int32).reshape(-1, 2).T
    ids = np.arange(len(cuts)) if ids is None else np.array(ids)
    return Span(number, number, key, ids.astype(np.int32), begin, end, text, 0, {}, None, **more)


def random_cuts(rng, length, share):
    """A tokenisation: every cut begins where the last ended; some characters take two byte tokens; [CLS] first."""
    ends = sorted({*rng.choice(np.arange(1, length), size=int(share * length), replace=False).tolist(), length})
    cuts = [(0, 0)]
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        cuts += [(begin, end)] * (2 if rng.random() < 0.2 else 1)
    return [*cuts, (length, length)]


def slow_pairs(source, target):
    """Row pairs by plain loops over documents and tokens."""
    first, pairs = {}, set()
    for side, spans in enumerate((source, target)):
        row = 0
        for s in spans:
            first[side, s.key] = (row, s)
            row += len(s.input_ids)
    for key in {s.key for s in source} & {s.key for s in target}:
        (row_a, a), (row_b, b) = first[0, key], first[1, key]
        cuts_a, cuts_b = ([*zip(s.begin.tolist(), s.end.tolist(), strict=True)] for s in (a, b))
        if cuts_a == cuts_b:
            for i, (begin, end) in enumerate(cuts_a):
                if begin < end or (i == 0 and a.input_ids[0] == b.input_ids[0]):
                    pairs.add((row_a + i, row_b + i))
            continue
        ends = [defaultdict(int), defaultdict(int)]
        for side, cuts in enumerate((cuts_a, cuts_b)):
            for i, (begin, end) in enumerate(cuts):
                if begin < end:
                    ends[side][end] = i  # the last token that ends there
        pairs |= {(row_a + ends[0][e], row_b + ends[1][e]) for e in ends[0].keys() & ends[1].keys()}
    return pairs


def two_tokenisations(seed):
    rng = np.random.default_rng(seed)
    texts = {f"doc:{i}": "".join(rng.choice(list("abcdefgh "), size=rng.integers(12, 60))) for i in range(40)}
    source, target = {}, {}
    for n, (key, text) in enumerate(texts.items()):
        cuts = random_cuts(rng, len(text), 0.3)
        source[key] = (text, cuts, [7 if i == 0 else i for i in range(len(cuts))])
        cuts = cuts if n % 3 == 0 else random_cuts(rng, len(text), 0.5)
        target[key] = (text, cuts, [7 if i == 0 and n % 2 else i for i in range(len(cuts))])
    for lone, side in (("doc:3", target), ("doc:5", target), ("doc:4", source)):
        del side[lone]
    shuffled = rng.permutation(sorted(target))
    return (
        [span(i, key, *source[key]) for i, key in enumerate(source)],
        [span(i, str(key), *target[key]) for i, key in enumerate(shuffled)],
    )


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_two_tokenisations_are_matched_as_by_plain_loops(lake, seed):
    source, target = two_tokenisations(seed)
    a, b = token_index(lake, "a", source), token_index(lake, "b", target)
    matched = match(a, b, limits=(a.n_rows, b.n_rows), skip=0, max_rows=10**6, seed=0)
    assert set(zip(matched.source_M.tolist(), matched.target_M.tolist(), strict=True)) == slow_pairs(source, target)
    assert len(set(matched.source_M.tolist())) == len(matched.source_M)
    assert (np.diff(matched.source_M) > 0).all()
    assert (matched.document_ids_C[matched.document_M] == a.document_ids[a.documents(matched.source_M)]).all()
    assert (matched.document_ids_C[matched.document_M] == b.document_ids[b.documents(matched.target_M)]).all()
    assert (matched.token_M == a.ids(matched.source_M)).all()
    notes = " ".join(matched.notes)
    assert "2 of 39 documents are in the source cache only" in notes
    assert "1 of 38 documents are in the target cache only" in notes
    assert "no token ends at the same character" in notes


def test_skipped_positions_and_rows_beyond_a_limit_are_left_out(lake):
    source, target = two_tokenisations(3)
    a, b = token_index(lake, "a", source), token_index(lake, "b", target)
    matched = match(a, b, limits=(200, b.n_rows), skip=2, max_rows=10**6, seed=0)
    assert matched.source_M.max() < 200
    assert min(a.positions(matched.source_M).min(), b.positions(matched.target_M).min()) == 2
    assert f"{a.n_rows - 200:,} rows of the source cache are not sealed yet" in " ".join(matched.notes)


def test_max_rows_draws_whole_documents(lake):
    source, target = two_tokenisations(4)
    a, b = token_index(lake, "a", source), token_index(lake, "b", target)
    matched = match(a, b, limits=(a.n_rows, b.n_rows), skip=0, max_rows=300, seed=0)
    assert 0 < len(matched.source_M) <= 300
    drawn = set(matched.document_ids_C.tolist())
    assert set(zip(matched.source_M.tolist(), matched.target_M.tolist(), strict=True)) == slow_pairs(
        [s._replace(key=s.key if s.key in drawn else "lone") for s in source], target
    )
    assert "max_rows = 300" in " ".join(matched.notes)


def without_text(number, key, n):
    return Span(number, number, key, np.arange(n, dtype=np.int32), None, None, None, 0, {}, None)


def test_rows_without_text_are_matched_by_order_where_lengths_agree(lake):
    a = token_index(lake, "a", [without_text(0, "x", 4), without_text(1, "y", 3), without_text(2, "z", 2)])
    b = token_index(lake, "b", [without_text(0, "z", 2), without_text(1, "x", 4), without_text(2, "y", 5)])
    matched = match(a, b, limits=(9, 11), skip=0, max_rows=100, seed=0)
    pairs = list(zip(matched.source_M.tolist(), matched.target_M.tolist(), strict=True))
    assert pairs == [(0, 2), (1, 3), (2, 4), (3, 5), (7, 0), (8, 1)]
    assert "1 documents differ in length" in " ".join(matched.notes)


def test_a_document_id_that_occurs_twice_is_left_out_and_counted(lake):
    cuts = [(0, 2), (2, 4)]
    a = token_index(lake, "a", [span(0, "x", "abcd", cuts), span(1, "x", "abcd", cuts), span(2, "y", "abcd", cuts)])
    b = token_index(lake, "b", [span(0, "x", "abcd", cuts), span(1, "y", "abcd", cuts)])
    matched = match(a, b, limits=(6, 4), skip=0, max_rows=100, seed=0)
    assert matched.source_M.tolist() == [4, 5]
    assert "1 document ids occur more than once" in " ".join(matched.notes)


def test_caches_without_common_documents_are_refused_with_what_they_hold(lake):
    a = token_index(lake, "a", [span(0, "left:0", "ab", [(0, 2)])])
    b = token_index(lake, "b", [span(0, "right:0", "ab", [(0, 2)])])
    with pytest.raises(InputError, match=r"left:0.*right:0.*same corpus"):
        match(a, b, limits=(1, 1), skip=0, max_rows=100, seed=0)


def test_documents_of_one_name_and_different_text_are_refused(lake):
    a = token_index(lake, "a", [span(0, "x", "abcdef", [(0, 2), (2, 4), (4, 6)])])
    b = token_index(lake, "b", [span(0, "x", "uvwxyz", [(0, 2), (2, 4), (4, 6)])])
    with pytest.raises(InputError, match="different text"):
        match(a, b, limits=(3, 3), skip=0, max_rows=100, seed=0)


def test_skipping_everything_is_refused_with_the_cure(lake):
    spans = [span(i, f"{i}", "ab", [(0, 2)]) for i in range(4)]
    a, b = token_index(lake, "a", spans), token_index(lake, "b", spans)
    with pytest.raises(InputError, match="set skip = 0"):
        match(a, b, limits=(4, 4), skip=1, max_rows=100, seed=0)


# the job


def corpus(rng, n_documents=80, length=40, n_words=30):
    words = [f"w{i}" for i in range(n_words)]
    return [Doc(" ".join(rng.choice(words, size=length)), key=f"held.jsonl:{i}") for i in range(n_documents)]


def states(documents, seed=0, widths=(12, 16), noise=0.1, context=1.0):
    """Two caches' sites that share a token part and a part that the token does not tell, mixed by random maps."""
    rng = np.random.default_rng(seed)
    ids = np.array([int(word[1:]) for doc in documents for word in doc.text.split()])
    token, hidden = rng.normal(size=(ids.max() + 1, 5))[ids], rng.normal(size=(len(ids), 5))
    sites = []
    for d in widths:
        A, B = rng.normal(size=(5, d)), rng.normal(size=(5, d))
        early, late = token @ A, token @ A + context * hidden @ B
        sites.append({"embed": early, "resid.1": late + noise * rng.normal(size=late.shape) + 3})
    return [{site: x.astype(np.float32) for site, x in both.items()} for both in sites]


def config_of(**table):
    return convert({"source": "small", "target": "large", **table}, alignment.Config, "jobs.x")


@pytest.fixture
def planted(make_cache):
    documents = corpus(np.random.default_rng(0))
    small, large = states(documents)
    caches = {
        "small": make_cache(sites=small, documents=documents, name="small.words"),
        "large": make_cache(sites=large, documents=documents, name="large.words"),
    }
    return caches, small, large, documents


def metric(report, name):
    return next(one for one in report.metrics if one.name == name)


def table(artifact, name):
    return pq.read_table(io.BytesIO(artifact.read(f"{name}.parquet"))).to_pylist()


def test_the_job_finds_the_planted_pair_beyond_tokens_and_its_nulls_find_nothing(planted, run_job):
    report, artifact = run_job(alignment, config_of(), planted[0])
    for name in ("least-squares", "ridge"):
        r2 = metric(report, f"{name} R2")
        assert r2.value > 0.95
        assert abs(r2.null) < 0.05
        assert metric(report, f"{name} retrieval@1").value > 0.8
        assert metric(report, f"{name} retrieval@10").null < 0.05
    assert metric(report, "token identity R2").value < 0.7
    assert metric(report, "CKA").value > 0.3
    assert abs(metric(report, "CKA").null) < 0.05
    grid = {(line["source_site"], line["target_site"]): line for line in table(artifact, "grid")}
    assert len(grid) == 4
    assert grid["resid.1", "embed"]["r2_ridge"] > 0.9  # the token part can be read off the mixture
    assert abs(grid["embed", "resid.1"]["r2_ridge"] - grid["embed", "resid.1"]["r2_token_identity"]) < 0.05
    assert grid["embed", "embed"]["r2_token_identity"] == pytest.approx(1, abs=1e-6)
    assert "resid.1 of small to resid.1 of large" in report.headline
    canonical = table(artifact, "canonical")
    assert sum(line["correlation"] > 0.9 for line in canonical) == 10
    assert max(abs(line["null_correlation"]) for line in canonical) < 0.35


def test_what_is_reported_is_measured_on_test_documents_with_the_map_that_is_saved(planted, run_job):
    caches, small, large, documents = planted
    config = config_of(source_sites=["resid.1"], target_sites=["resid.1"], skip=0)
    report, artifact = run_job(alignment, config, caches)
    split = split_documents(
        np.array([doc.key for doc in documents]), validation=config.validation, test=config.test, seed=config.seed
    ).at(np.repeat(np.arange(len(documents)), 40))
    x, y = small["resid.1"], large["resid.1"]
    for name in ("least-squares", "ridge", "procrustes"):
        fitted = Fitted.load(artifact.read(f"{name}.safetensors"))
        mapped = fitted.apply(torch.as_tensor(x[split.test])).numpy()
        expected = r2_score(y[split.test], mapped, multioutput="variance_weighted")
        assert metric(report, f"{name} R2").value == pytest.approx(expected, abs=1e-5)
        assert np.allclose(fitted.mean_S, x[split.train].mean(0), atol=1e-5)
        assert np.allclose(fitted.mean_T, y[split.train].mean(0), atol=1e-5)
    train, test = x[split.train].astype(float), x[split.test].astype(float)
    M = np.linalg.lstsq(train - train.mean(0), y[split.train] - y[split.train].mean(0), rcond=None)[0]
    mapped = (test - train.mean(0)) @ M + y[split.train].mean(0)
    expected = r2_score(y[split.test], mapped, multioutput="variance_weighted")
    assert metric(report, "least-squares R2").value == pytest.approx(expected, abs=1e-5)


def test_a_map_that_only_fits_its_training_rows_is_not_reported_as_good(make_cache, run_job):
    rng = np.random.default_rng(1)
    documents = corpus(rng, n_documents=30, length=10)
    x, y = (rng.normal(size=(300, 200)).astype(np.float32) for _ in range(2))
    caches = {
        "small": make_cache(sites={"resid.0": x}, documents=documents, name="small.words"),
        "large": make_cache(sites={"resid.0": y}, documents=documents, name="large.words"),
    }
    report, artifact = run_job(alignment, config_of(skip=0), caches)
    (line,) = (one for one in table(artifact, "maps") if one["map"] == "least-squares" and one["train_r2"])
    assert line["train_r2"] > 0.99
    assert line["r2"] < 0
    assert metric(report, "least-squares R2").value == line["r2"]
    assert metric(report, "ridge R2").value < 0.01
    assert metric(report, "least-squares retrieval@1").value < 0.1
    (cell,) = table(artifact, "grid")
    assert cell["r2_least-squares"] == pytest.approx(line["r2"])
    assert cell["r2_token_identity"] < 0.05
    assert any("end of the path" in note for note in report.notes)


def test_documents_in_another_order_and_others_between_change_nothing(planted, make_cache, run_job):
    caches, _, large, documents = planted
    rng = np.random.default_rng(5)
    extra = [Doc("w1 w2 w3", key=f"extra:{i}") for i in range(5)]
    order = rng.permutation(len(documents) + len(extra))
    rows = [*(large["resid.1"][40 * i : 40 * i + 40] for i in range(len(documents)))]
    rows += [rng.normal(size=(3, 16)).astype(np.float32) for _ in extra]
    moved = make_cache(
        sites={"resid.1": np.concatenate([rows[i] for i in order])},
        documents=[(documents + extra)[i] for i in order],
        name="large.words.moved",
    )
    config = config_of(source_sites=["resid.1"], target_sites=["resid.1"])
    (before, _), (after, _) = (run_job(alignment, config, {**caches, "large": one}) for one in (caches["large"], moved))
    for name in ("least-squares R2", "ridge retrieval@1", "procrustes cosine", "token identity R2", "mean CCA"):
        assert metric(after, name).value == pytest.approx(metric(before, name).value, rel=1e-6)
    assert any("5 of 85 documents are in the target cache only" in note for note in after.notes)


def test_the_same_job_gives_the_same_numbers_and_another_seed_others(planted, run_job):
    first, again = (run_job(alignment, config_of(), planted[0])[0] for _ in range(2))
    other, _ = run_job(alignment, config_of(seed=1), planted[0])
    assert first == again
    assert first != other


def test_a_cache_is_aligned_with_itself_between_layers(make_cache, run_job):
    documents = corpus(np.random.default_rng(3))
    cache = make_cache(sites=states(documents)[0], documents=documents, dtype="bfloat16")
    config = config_of(target="small", source_sites=["resid.1"], target_sites=["embed"])
    report, artifact = run_job(alignment, config, {"small": cache})
    assert metric(report, "ridge R2").value > 0.9
    assert sorted(name for name in artifact.files if name.startswith("figures/")) == [
        "figures/canonical.svg",
        "figures/maps.svg",
    ]


def test_a_site_against_itself_is_never_the_finding(make_cache, run_job):
    documents = corpus(np.random.default_rng(4))
    cache = make_cache(sites=states(documents)[0], documents=documents)
    _, artifact = run_job(alignment, config_of(target="small"), {"small": cache})
    (shown,) = {(line["source_site"], line["target_site"]) for line in table(artifact, "maps")}
    assert shown in {("embed", "resid.1"), ("resid.1", "embed")}
    assert len(table(artifact, "grid")) == 4


def test_the_job_names_what_it_reads():
    reads = alignment.reads(config_of(source_sites=["resid.1"]))
    assert [(read.cache, [str(site) for site in read.sites]) for read in reads] == [
        ("small", ["resid.1"]),
        ("large", []),
    ]


def test_too_few_rows_are_refused_with_the_counts(make_cache, run_job):
    documents = corpus(np.random.default_rng(2), n_documents=20, length=3)
    small, large = states(documents)
    caches = {
        "small": make_cache(sites=small, documents=documents, name="small.words"),
        "large": make_cache(sites=large, documents=documents, name="large.words"),
    }
    with pytest.raises(InputError, match=r"small and large have 40 matched rows in 20 documents.*each needs 32"):
        run_job(alignment, config_of(), caches)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"maps": []}, "at least one map"),
        ({"maps": [{"kind": "ridge"}, {"kind": "ridge", "penalties": [1.0]}]}, "one of each kind"),
        ({"maps": [{"kind": "ridge", "penalties": [0.0]}]}, "penalt"),
        ({"validation": 0.5, "test": 0.5}, "validation = 0.5 and test = 0.5"),
        ({"target": "small", "source_sites": ["embed"], "target_sites": ["embed"]}, "nothing to align"),
        ({"null_rows": 0}, "null_rows"),
        ({"ridge": 1.0}, "unknown field `ridge`"),
    ],
)
def test_contradictions_are_refused_when_the_recipe_is_read(table, message):
    with pytest.raises(InputError, match=message):
        config_of(**table)
