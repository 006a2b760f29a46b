"""What archetypal SAEs are claimed to be, on data small enough for a test, each claim beside its controls (T16-T21).

Thresholds leave slack to what was measured with five seeds; docs/sae.md has the numbers. Where the seed paper's claim
was not found here, the test says what was found instead.
"""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from jobs import sae
from jobs.sae.anatomy import compared, stability_metrics
from jobs.sae.candidates import KMeans
from jobs.sae.identifiability import Examples, soft_identifiability
from jobs.sae.metrics import fvu
from jobs.sae.plausibility import compared as read_beside
from jobs.sae.plausibility import directions
from jobs.sae.stability import mcc, stability
from jobs.sae.structure import ranks
from jobs.sae.train import Training, train
from tests.jobs.sae.planting import both, config, order, untrained
from tests.jobs.sae.test_sae_identifiability import halves

SEEDS = range(3)


def twins(rows, chosen, seeds=SEEDS):
    """(coders, atoms before training, atoms after it)."""
    coders, first = [], []
    for seed in seeds:
        coder = untrained(rows, chosen, seed)
        first.append(coder.atoms_FD.clone())
        train([Training(coder, chosen, chosen.epochs * len(rows), both(rows[:100]))], order(rows, chosen, seed))
        coders.append(coder)
    return coders, first, [coder.atoms_FD for coder in coders]


def r2(coders, rows):
    with torch.no_grad():
        return float(np.mean([1 - fvu(rows, coder.decode(coder.encode(rows))) for coder in coders]))


def archetypal(n, delta=0.1, **fields):
    return sae.Archetypal(candidates=KMeans(n=n, **fields), delta=delta)


# a cone of 48 known atoms in 32 dimensions, three at a time (T16)


@pytest.fixture(scope="module")
def cone():
    rng = np.random.default_rng(0)
    atoms = rng.standard_normal((48, 32))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    z = np.zeros((8000, 48))
    chosen = rng.random((8000, 48)).argsort(axis=1)[:, :3]
    np.put_along_axis(z, chosen, rng.uniform(0.5, 1.5, (8000, 3)), axis=1)
    rows = torch.from_numpy((z @ atoms).astype(np.float32))
    return rows[:6000], rows[6000:], torch.from_numpy(atoms.astype(np.float32))


@pytest.fixture(scope="module")
def of_cone(cone):
    common = {"width": 48, "activation": sae.TopK(k=3), "normalise": "standardise", "batch": 512, "epochs": 68}
    common |= {"lr": 5e-3, "warmup": 0, "decay": 0}
    dictionaries = {
        "topk": sae.UnitNorm(),
        "ra": archetypal(300),
        "ra_wide": archetypal(300, 1.0),
        "a": archetypal(300, 0),
    }
    return {name: twins(cone[0], config(**common, dictionary=one)) for name, one in dictionaries.items()}


def test_archetypal_runs_with_candidates_of_their_own_find_the_same_atoms(cone, of_cone):
    _, held, atoms = cone
    found = {name: stability(last, first) for name, (_, first, last) in of_cone.items()}
    assert found["ra"].final >= 0.85  # .936 with five seeds
    assert found["ra"].initial <= 0.65  # .603: they did not start alike
    assert found["ra"].final >= found["topk"].final - 0.02  # .936 and .928
    for coder in of_cone["ra"][0]:
        assert mcc(coder.atoms_FD / coder.scale_E, atoms) >= 0.88  # .954, the least .931
    assert r2(of_cone["ra"][0], held) >= 0.9  # .948


def test_room_to_leave_the_hull_buys_reconstruction(cone, of_cone):
    _, held, _ = cone
    assert r2(of_cone["ra_wide"][0], held) > r2(of_cone["a"][0], held)  # .955 and .943


# digits (T17)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return [torch.from_numpy(part) for part in train_test_split(x.astype(np.float32), y, test_size=0.3, random_state=0)]


@pytest.fixture(scope="module")
def of_digits(digits):
    common = {"width": 100, "activation": sae.TopK(k=5), "normalise": "standardise", "batch": 256, "epochs": 160}
    common |= {"lr": 5e-3, "warmup": 0, "decay": 0}
    dictionaries = {
        "topk": sae.UnitNorm(),
        "topk_from_kmeans": sae.UnitNorm(candidates=KMeans(n=100, seed=0)),
        "ra": archetypal(300),
        "ra_shared": archetypal(300, seed=0),
    }
    return {name: twins(digits[0], config(**common, dictionary=one)) for name, one in dictionaries.items()}


def test_on_digits_archetypal_runs_agree_more_but_not_because_training_made_them(digits, of_digits):
    found = {name: stability(last, first) for name, (_, first, last) in of_digits.items()}
    assert found["ra"].final >= found["topk"].final + 0.03  # .730 and .660
    # the controls, without which this would say that archetypal dictionaries are stable
    assert found["topk_from_kmeans"].final >= found["ra"].final + 0.1  # .906: the start alone does it
    assert found["ra_shared"].initial == pytest.approx(1)
    assert found["ra_shared"].stabilisation < -0.2  # -.275
    assert found["ra"].stabilisation < 0 < found["topk"].stabilisation  # .812 -> .730, .289 -> .660
    assert any("starts agree already" in remark for remark in found["ra_shared"].remarks)


def test_on_digits_archetypal_atoms_are_few_directions_and_cost_a_little_variance(digits, of_digits):
    held = digits[1]
    coders = {name: one[0] for name, one in of_digits.items()}
    assert r2(coders["topk"], held) - 0.1 <= r2(coders["ra"], held) < r2(coders["topk"], held)  # .773 and .740
    stable = {name: np.mean([ranks(coder.atoms_FD).stable for coder in some]) for name, some in coders.items()}
    assert stable["ra"] <= stable["topk"] / 1.7  # 6.4 and 13.7


def test_a_report_of_stability_carries_the_start_and_what_training_added(of_digits):
    _, first, last = of_digits["ra_shared"]
    plain, about_mean = compared(last, first, None, 0)
    metrics = {metric.name: metric for metric in stability_metrics(plain, about_mean)}
    assert list(metrics) == ["stability", "stability_init", "stabilisation", "stability_centred"]
    assert metrics["stabilisation"].value == metrics["stability"].value - metrics["stability_init"].value
    assert metrics["stability"].null < 0.5


# an atom for every class (T20)


def test_on_digits_archetypal_atoms_are_nearer_to_what_a_classifier_reads(digits):
    x, _, y, _ = digits
    head = MLPClassifier((32,), max_iter=400, random_state=0).fit(x.numpy(), y.numpy())
    rows = torch.from_numpy(np.maximum(x.numpy() @ head.coefs_[0] + head.intercepts_[0], 0)).float()
    alive = rows.std(0) > 0
    hidden, classes = rows[:, alive], torch.from_numpy(head.coefs_[1].T).float()[:, alive]
    common = {"width": 32, "activation": sae.TopK(k=4), "normalise": "standardise", "batch": 256, "epochs": 160}
    common |= {"lr": 5e-3, "warmup": 0, "decay": 0}
    found = {}
    for name, dictionary in (("topk", sae.UnitNorm()), ("a", archetypal(200, 0))):
        coders, _, last = twins(hidden, config(**common, dictionary=dictionary))
        sigma = 1 / coders[0].scale_E
        seen = [coders[0].normalise(hidden)]
        readings = [read_beside(atoms, directions(classes, sigma), seen, 0) for atoms in last]
        found[name] = {row: np.mean([one[row]["scaled"] for one in readings]) for row in ("atoms", "random", "rows")}
    assert found["a"]["atoms"] >= found["topk"]["atoms"] + 0.02  # .582 and .538
    assert found["a"]["rows"] > found["a"]["atoms"] > found["a"]["random"] + 0.1


# objects in mixtures (T21)


@pytest.mark.parametrize("n_objects", [12, 20])
def test_in_linear_mixtures_every_coder_tells_the_objects_apart(n_objects):
    sets = [(torch.from_numpy(x).float(), has) for x, has in halves(n_objects)]
    rows = sets[0][0]
    common = {"width": n_objects, "activation": sae.TopK(k=4), "normalise": "standardise", "batch": 256, "epochs": 100}
    common |= {"lr": 5e-3, "warmup": 0, "decay": 0}
    for dictionary in (sae.UnitNorm(), archetypal(300, 0), archetypal(300, 0.1)):
        coder = twins(rows, config(**common, dictionary=dictionary), [0])[0][0]
        with torch.no_grad():
            examples = [Examples(coder.encode(x).mix(torch.eye(n_objects)), has) for x, has in sets]
        found = soft_identifiability(*examples, seed=0)
        assert found.fit_on_test >= 0.95
