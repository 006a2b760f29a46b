"""Which jobs run behind which: those that stand on what others leave, behind these."""

from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter

from storage.errors import InputError


def waves(needs: Mapping[str, Collection[str]]) -> tuple[tuple[str, ...], ...]:
    """Names in the order given, cut so that what a name needs is in an earlier wave; others that it needs are there.

    `InputError` where names need each other.
    """
    sorter = TopologicalSorter({name: [one for one in wanted if one in needs] for name, wanted in needs.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        raise InputError(
            f"jobs stand on each other in a circle: {' <- '.join(error.args[1])}; one of them must do without the next"
        ) from error
    places = {name: place for place, name in enumerate(needs)}
    found = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=places.__getitem__)
        sorter.done(*ready)
        found.append(tuple(ready))
    return tuple(found)
