"""Rows made of a known dictionary, and a short way to train on rows in memory."""

import numpy as np
import torch

from jobs import sae
from jobs.sae.parts import Batch
from jobs.sae.start import rebuilt_space, start
from jobs.sae.train import Training, train
from storage import Site
from storage.moments import measure

TOPK = sae.TopK(k=4)


def config(**fields):
    return sae.Config(**({"cache": "c", "site": Site("resid", 0), "width": 64, "activation": TOPK} | fields))


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planted(n=20_000, width=40, d=32, active=3, offset=3.0, seed=0):
    """Rows of unit atoms, `active` of them on average, around an offset: (rows [n, d], atoms [width, d])."""
    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal((width, d))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    strengths = (rng.random((n, width)) < active / width) * rng.uniform(0.5, 1.5, (n, width))
    rows = strengths @ atoms + 0.02 * rng.standard_normal((n, d)) + offset
    return torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(atoms.astype(np.float32))


def both(rows):
    return Batch(rows, rows)


def untrained(rows, chosen, seed=None):
    """The coder as training finds it."""
    moments, points = measure(rows.numpy()), None
    seed = chosen.seed if seed is None else seed
    if chosen.dictionary.candidates is not None:
        shift, scale = (torch.from_numpy(one).float() for one in rebuilt_space(chosen, [moments]))
        shared = chosen.dictionary.candidates.seed
        points = chosen.dictionary.candidates.draw(
            ((rows - shift) * scale).split(512), seed if shared is None else shared
        )
    return start(chosen, [moments], None, points, seed)


def order(rows, chosen, seed=None):
    """Batches in an order of their own for every epoch."""
    random = torch.Generator().manual_seed(chosen.seed if seed is None else seed)
    for _ in range(chosen.epochs):
        for part in torch.randperm(len(rows), generator=random).split(chosen.batch):
            yield both(rows[part])


def fit(rows, chosen, seed=None, held=2000):
    """A coder trained on all but the last rows, and its history."""
    training, probe = rows[:-held], rows[-held:]
    one = Training(untrained(training, chosen, seed), chosen, chosen.epochs * len(training), both(probe))
    train([one], order(training, chosen, seed))
    return one.coder, one.history


def unit(atoms):
    return torch.nn.functional.normalize(atoms, dim=1)


def recovery(coder, atoms):
    """Mean over planted atoms of the largest cosine to one that was found."""
    return float((unit(atoms) @ unit(coder.atoms_FD / coder.scale_E).T).max(1).values.mean())
