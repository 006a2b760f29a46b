"""What a run leaves for people: notes, tables and figures.

N rows of a fit, F features, M rows that one atom is a mixture of.
"""

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from jobs.core.context import Context
from jobs.core.figures import PALETTE, panels, style
from jobs.factors.coder import Factors
from jobs.factors.config import Config
from jobs.factors.fitted import Fitted, Mixture
from jobs.sae import Config as SaeConfig
from jobs.sae import figures
from jobs.sae.examples import contexts_table
from jobs.sae.figures import Card
from jobs.sae.interpret import TokenJudge
from jobs.sae.measure import Found
from jobs.sae.page import page
from jobs.sae.portraits import Portraits, features_table, portray
from jobs.sae.report import chosen
from jobs.sae.rows import Rows
from jobs.sae.windows import shown_tokens
from storage.index import TokenIndex

_CARDS = 8
"""Features in the figure of contexts."""
_BEFORE, _AFTER = 60, 40
"""Characters of context kept around a token."""


def notes(config: Config, rows: Rows, fitted: Fitted, n_fitted: int, found: Found) -> tuple[str, ...]:
    """What a reader must know of the numbers."""
    n_training = int(rows.training_N.sum())
    keep = getattr(config.method, "keep", None)
    known = "in the fit, too" if fitted.errors else "at encoding; the fit did not know of it"
    return (
        f"Fitted to {n_fitted} of {n_training} training rows, drawn at random; measured on {found.tally.n} rows of "
        "other documents.",
        "Shift and scale come from the moments of all rows; no other number of held-out rows reaches the fit.",
        *((f"Codes are held to {keep} features per row {known}.",) if keep else ()),
        f"The random dictionary of the null and PCA have {found.k} numbers per row, of rows about their mean.",
        *fitted.remarks,
        *found.remarks,
    )


def leave(asked: SaeConfig, ctx: Context, rows: Rows, factors: Factors, found: Found) -> Portraits:
    """Keep what `sae` keeps of its features; what these are to a reader."""
    portraits = portray(
        found.observed,
        chosen(asked, found),
        factors.atoms_FD / factors.scale_E,
        rows.held_H,
        lambda rows_B: factors.encode(rows.at(rows_B).x_BD),
        None,
        TokenJudge(),
    )
    contexts, density_F = contexts_table(portraits.examples, portraits.chosen), found.tally.density
    ctx.table("features", features_table(portraits, density_F, found.pure))
    ctx.table("contexts", contexts)
    ctx.page("features", page(portraits, f"{asked.site} of {asked.cache}", density_F, found.pure))
    ctx.figure(
        "features",
        figures.behaviour(density_F, found.pure, found.tally.n),
        "How often features fire on held-out tokens, and how far the strongest tokens of a feature are one token; "
        "grey, the same of tokens drawn at random.",
    )
    cards = [Card(f, f"fires on {density_F[f]:.2%} of tokens", why) for f, why in portraits.chosen.items()]
    ctx.figure(
        "contexts",
        figures.contexts(cards[:_CARDS], contexts),
        "Strongest held-out tokens of features in their contexts: orange, the best teller of a label's value; blue, "
        "drawn at random among the live ones.",
    )
    return portraits


def leave_fit(ctx: Context, fitted: Fitted, rows_N: np.ndarray, tokens: TokenIndex) -> None:
    """Keep how the fit went, and which rows its atoms are made of."""
    if fitted.mixture is not None:
        ctx.table("mixtures", mixtures_table(fitted.mixture, rows_N, tokens))
    if fitted.errors:
        ctx.table("history", pa.table({"sweep": np.arange(len(fitted.errors)), "fvu": np.array(fitted.errors)}))
        ctx.figure(
            "fit",
            course(fitted.errors),
            "Fraction of variance unexplained of the rows of the fit, after every sweep; it never rises.",
        )


def mixtures_table(mixture: Mixture, rows_N: np.ndarray, tokens: TokenIndex) -> pa.Table:
    """A line for each row that an atom is made of, by weight; a k-means centre of the rows has no row."""
    weights_FM, places_FM = mixture.weights_FM.cpu().numpy(), mixture.rows_FM.cpu().numpy()
    atoms_A, at_A = np.nonzero(weights_FM > 0)
    order_A = np.lexsort((-weights_FM[atoms_A, at_A], atoms_A))
    atoms_A, at_A = atoms_A[order_A], at_A[order_A]
    places_A = places_FM[atoms_A, at_A]
    is_row_A = places_A < len(rows_N)
    numbers_A = np.where(is_row_A, rows_N[np.minimum(places_A, len(rows_N) - 1)], -1)
    of_rows = iter(_contexts(numbers_A[is_row_A], tokens))
    lines = [
        {"atom": int(atom), "row": int(row) if known else None, "weight": float(weight)}
        | (next(of_rows) if known else {})
        for atom, row, known, weight in zip(atoms_A, numbers_A, is_row_A, weights_FM[atoms_A, at_A], strict=True)
    ]
    types = {"atom": pa.int64(), "row": pa.int64(), "weight": pa.float64()}
    return pa.Table.from_pylist(lines, pa.schema(types | dict.fromkeys(("left", "token", "right"), pa.string())))


def _contexts(rows: np.ndarray, tokens: TokenIndex) -> list[dict[str, str]]:
    """Around each row; nothing around an image's patch."""
    around = [tokens.context(int(row), _BEFORE, _AFTER) if tokens.has_text else ("", "", "") for row in rows]
    return [
        {"left": left, "token": token, "right": right}
        for (left, _, right), token in zip(around, shown_tokens(tokens, rows), strict=True)
    ]


def course(errors: tuple[float, ...]) -> Figure:
    """FVU of the rows of the fit, sweep by sweep."""
    with style():
        figure, (ax,) = panels(size=(6.4, 3.4))
        ax.plot(range(len(errors)), errors, color=PALETTE[0])
        ax.set(xlabel="sweeps", ylabel="fraction of variance unexplained", ylim=(0, None))
        ax.set_title(f"{1 - errors[-1]:.1%} of the fit's variance after {len(errors) - 1} sweeps")
        return figure
