"""Methods of scikit-learn: PCA, ICA, k-means and NMF. Each is one class; `methods` has those of our own and the union.

N rows of the fit, F features (`width`), D dimensions.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta
from sklearn.cluster import MiniBatchKMeans, kmeans_plusplus
from sklearn.decomposition import NMF, PCA, FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from jobs.core.linalg import unit_rows
from jobs.factors.codings import Coding, Linear, NonNegative, OneHot
from jobs.factors.fitted import Fitted
from storage.errors import InputError
from storage.value import Value

Count = Annotated[int, Meta(ge=1)]
_NO_SPREAD = 1e-6
"""Standard deviation beside the largest, below which rows do not span a direction."""


class Pca(Value, tag_field="kind", tag="pca"):
    """Directions of largest variance about the mean, by scikit-learn; codes have signs."""

    keep: Count | None = None
    """Features per row, the ones that add most; none means all."""

    def coding(self) -> Coding:
        """z = (x - mean) D^T."""
        return Linear(self.keep)

    def fit(self, x_ND: Tensor, width: int, seed: int) -> Fitted:
        """Unit atoms, the one of largest variance first; the same for every seed."""
        _require(width, x_ND, "pca")
        found = PCA(width, svd_solver="covariance_eigh").fit(_array(x_ND).astype(np.float64))
        return Fitted(_like(x_ND, found.components_), self.coding(), offset_D=_like(x_ND, found.mean_))


class Ica(Value, tag_field="kind", tag="ica"):
    """Independent components by scikit-learn's FastICA, of unit variance; codes have signs."""

    keep: Count | None = None
    """Features per row, by orthogonal matching pursuit; none means all."""
    sweeps: Count = 500
    """Iterations, at most."""

    def coding(self) -> Coding:
        """z = (x - mean) W^T with W the unmixing matrix; atoms are the mixing matrix."""
        return Linear(self.keep)

    def fit(self, x_ND: Tensor, width: int, seed: int) -> Fitted:
        """The components of rows whitened in the `width` directions of largest variance.

        Whitened here: scikit-learn 1.9 gives components the sign of their first entry, and so loses them all where the
        first dimension never moves.
        """
        _require(width, x_ND, "ica")
        x = _array(x_ND).astype(np.float64)
        directions = PCA(width, svd_solver="covariance_eigh").fit(x)
        lengths_F1 = np.sqrt(directions.explained_variance_)[:, None]
        if lengths_F1.min() <= _NO_SPREAD * lengths_F1.max():
            raise InputError(f"ica was asked for {width} components, but the rows span fewer directions: lower width")
        white_NF = (x - directions.mean_) @ (directions.components_ / lengths_F1).T
        model = FastICA(whiten=False, max_iter=self.sweeps, random_state=seed)
        with _remarks(f"FastICA had not converged after {self.sweeps} sweeps.") as remarks:
            turn_FF = model.fit(white_NF).components_
        atoms_FD, hears_FD = (turn_FF @ (directions.components_ * by) for by in (lengths_F1, 1 / lengths_F1))
        return Fitted(
            _like(x_ND, atoms_FD),
            self.coding(),
            offset_D=_like(x_ND, directions.mean_),
            hears_FD=_like(x_ND, hears_FD),
            remarks=tuple(remarks),
        )


class KMeans(Value, tag_field="kind", tag="kmeans"):
    """Centres of scikit-learn's mini-batch k-means from k-means++; a row's code is 1 for its nearest centre."""

    def coding(self) -> Coding:
        """One feature per row."""
        return OneHot()

    def fit(self, x_ND: Tensor, width: int, seed: int) -> Fitted:
        """The centres."""
        start_FD, centres_FD = centres(x_ND, width, seed, "kmeans")
        return Fitted(centres_FD, self.coding(), start_FD=start_FD)


class Nmf(Value, tag_field="kind", tag="nmf"):
    """Non-negative codes of non-negative atoms (Lee & Seung 1999), by scikit-learn's coordinate descent."""

    keep: Count | None = None
    """Features per row, by orthogonal matching pursuit; none means all that are positive."""
    sweeps: Count = 500
    """Sweeps, at most."""

    def coding(self) -> Coding:
        """Non-negative least squares."""
        return NonNegative(self.keep)

    def fit(self, x_ND: Tensor, width: int, seed: int) -> Fitted:
        """Unit atoms, from random ones; rows with a negative entry are refused."""
        x = _array(x_ND).astype(np.float64)
        if x.min() < 0:
            raise InputError(
                f"nmf wants rows without negative entries, and the least of the {len(x)} normalised rows is "
                f"{x.min():.3g}: use semi_nmf, whose atoms may be negative, or a site behind a ReLU with "
                'normalise = "isotropic" or "none"'
            )
        random, size = np.random.default_rng(seed), np.sqrt(x.mean() / width)
        z_NF, start_FD = (np.abs(random.standard_normal(s)) * size for s in ((len(x), width), (width, x.shape[1])))
        model = NMF(width, init="custom", max_iter=self.sweeps)
        with _remarks(f"NMF had not converged after {self.sweeps} sweeps.") as remarks:
            model.fit_transform(x, W=z_NF, H=start_FD.copy())
        atoms_FD, first_FD = unit_rows(_like(x_ND, model.components_)), _like(x_ND, start_FD)
        return Fitted(atoms_FD, self.coding(), start_FD=first_FD, remarks=tuple(remarks))


def _require(width: int, x_ND: Tensor, kind: str) -> None:
    if width > min(x_ND.shape):
        raise InputError(
            f"{kind} was asked for {width} features of {len(x_ND)} rows with {x_ND.shape[1]} dimensions: it finds at "
            f"most {min(x_ND.shape)}, so lower width or take another method"
        )


def require_rows(width: int, x_ND: Tensor, kind: str) -> None:
    """Refuse more features than rows."""
    if width > len(x_ND):
        raise InputError(f"{kind} was asked for {width} features of {len(x_ND)} rows: lower width or raise max_rows")


def centres(x_ND: Tensor, width: int, seed: int, kind: str) -> tuple[Tensor, Tensor]:
    """Where k-means starts (k-means++), and its centres: [F, D] each."""
    require_rows(width, x_ND, kind)
    x = _array(x_ND)
    start_FD, _ = kmeans_plusplus(x, width, random_state=seed)
    with _remarks(""):  # fewer different rows than centres is no error: the centres are then alike
        found = MiniBatchKMeans(width, init=start_FD, n_init=1, random_state=seed, batch_size=4096).fit(x)
    return _like(x_ND, start_FD), _like(x_ND, found.cluster_centers_)


@contextmanager
def _remarks(said: str) -> Iterator[list[str]]:
    """A list that holds `said` behind the block if something in it did not converge."""
    remarks: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield remarks
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            remarks.append(said)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _array(x_ND: Tensor) -> np.ndarray:
    return x_ND.cpu().numpy()


def _like(x_ND: Tensor, array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(x_ND.device)
