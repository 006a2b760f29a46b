"""The tables a geometry artifact holds: one line per point."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from torch import Tensor

from jobs.geometry.agreement import Agreement
from jobs.geometry.points import Chosen
from jobs.geometry.space import Space


def space_table(space: Space, chosen: Chosen, members_N: np.ndarray) -> pa.Table:
    """Each point of one space: who its neighbours are, how well they rebuild it, and its dimension where measured.

    Distances are Euclidean, between unit rows where neighbours are chosen by cosine.
    """
    return pa.table(
        {
            "key": pa.array(chosen.keys, pa.string()),
            "string": pa.array(chosen.strings, pa.string()),
            "id": pa.array(members_N),
            "neighbours": _lists(np.array(chosen.strings, object)[space.near.indices_QK.cpu().numpy()]),
            "distances": _lists(space.near.distances_QK.cpu().numpy()),
            "weights": _lists(space.weights_NK.cpu().numpy()),
            "error": pa.array(space.error_N.cpu().numpy()),
            "dimension": _measured(space, space.dimension_Q, pa.int64()),
            "participation": _measured(space, space.participation_Q, pa.float64()),
        }
    )


def extremes_table(spaces: Sequence[Space], chosen: Chosen, shown: int = 30, neighbours: int = 6) -> pa.Table:
    """The points of lowest and of highest dimension in each space, most extreme first, with those nearest to them."""
    strings = np.array(chosen.strings, object)
    lines = []
    for space in spaces:
        order_Q = space.dimension_Q.argsort(stable=True).cpu().numpy()
        for end, places in (("lowest", order_Q[:shown]), ("highest", order_Q[::-1][:shown])):
            for place in places.tolist():
                point = int(space.queries_Q[place])
                near = strings[space.near.indices_QK[point, :neighbours].cpu().numpy()].tolist()
                dimension, control = int(space.dimension_Q[place]), int(space.control_Q[place])
                lines.append(
                    {"space": space.name, "end": end, "string": strings[point], "dimension": dimension}
                    | {"gaussian": control, "neighbours": near}
                )
    return pa.Table.from_pylist(lines)


def agreement_table(agreement: Agreement, chosen: Chosen, spaces: Sequence[Space]) -> pa.Table:
    """Each point's agreement between the two spaces, at every scale."""
    return pa.table(
        {
            "key": pa.array(chosen.keys, pa.string()),
            "string": pa.array(chosen.strings, pa.string()),
            "similarity": pa.array(agreement.cosine.point_r_N.cpu().numpy()),
            "weights": pa.array(agreement.weights.score_N.cpu().numpy()),
            "refitted": pa.array(agreement.refitted.score_N.cpu().numpy()),
            "overlap": pa.array(agreement.overlap.score_N.cpu().numpy()),
            "first_dimension": _measured(spaces[0], spaces[0].dimension_Q, pa.int64()),
            "second_dimension": _measured(spaces[1], spaces[1].dimension_Q, pa.int64()),
        }
    )


def _lists(values_NK: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_NK.ravel()), values_NK.shape[1])


def _measured(space: Space, values_Q: Tensor, kind: pa.DataType) -> pa.Array:
    """A column that is null at the points where nothing was measured."""
    column = np.full(len(space.x_ND), None, object)
    column[space.queries_Q.cpu().numpy()] = values_Q.cpu().numpy()
    return pa.array(column, kind)
