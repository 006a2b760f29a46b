"""The world that every test of several nodes disturbs."""

import pytest

from tests.cluster.hosts import unavailable
from tests.cluster.world import world


@pytest.fixture(scope="session")
def disturbed_world(tmp_path_factory):
    """A recipe, and a run of it that nothing disturbs, under way while the first cluster comes up."""
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="session")
def needs_hosts():
    """Skips, with the reason, where this machine cannot have hosts of its own."""
    if reason := unavailable():
        pytest.skip(reason)
