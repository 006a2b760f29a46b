"""Every activation and every dictionary: recovery of a planted dictionary, reload, and what each promises."""

import pytest

from jobs import sae
from jobs.sae.candidates import KMeans
from jobs.sae.jump import L0Target
from tests.jobs.sae.planting import TOPK, config, fit, planted, recovery, untrained

ACTIVATIONS = {
    "topk": TOPK,
    "batch_topk": sae.BatchTopK(k=3),
    "relu": sae.Relu(l1=0.2),
    "p_anneal": sae.PAnneal(l1=0.1),
    "jump_relu": sae.JumpRelu(sparsity=L0Target(l0=3)),
    "gated": sae.Gated(l1=0.8),
    "matching_pursuit": sae.MatchingPursuit(k=4),
    "orthogonal_pursuit": sae.OrthogonalPursuit(k=4),
}
TIED = {"matching_pursuit", "orthogonal_pursuit"}
CASES = [
    *[(name, sae.UnitNorm()) for name in ACTIVATIONS],
    ("topk", sae.Free()),
    ("relu", sae.Free()),
    ("topk", sae.Archetypal(candidates=KMeans(n=400), delta=0.5)),
]


@pytest.fixture(scope="module")
def material():
    return planted()


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{type(case[1]).__name__}")
def trained(request, material):
    name, dictionary = request.param
    rows, atoms = material
    chosen = config(
        activation=ACTIVATIONS[name],
        dictionary=dictionary,
        encoder="tied" if name in TIED else "linear",
        normalise="isotropic" if dictionary.biased else "centre",
        batch=512,
        epochs=12,
        aux=sae.AuxK(dead_after=20_000),
    )
    coder, history = fit(rows, chosen)
    return chosen, coder, history, rows, atoms


def test_a_planted_dictionary_is_recovered(trained):
    chosen, coder, history, rows, atoms = trained
    found = recovery(coder, atoms)
    assert found >= 0.9
    assert recovery(untrained(rows, chosen), atoms) < found - 0.1
    assert history[-1].held_out_fvu < 0.15
