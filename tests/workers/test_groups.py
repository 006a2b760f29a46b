"""How many workers of each kind the nodes hold, and what is done where GPUs are missing. No Ray."""

import pytest

from storage import InputError
from workers.groups import CPUS, Group, room, settle, targets, without_gpus
from workers.pool import Place


def node(cpus=8, gpus=0, accelerator=None, alive=True, **labels):
    kind = {f"accelerator_type:{accelerator}": 1.0} if accelerator else {}
    resources = {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {}) | kind
    return {"Alive": alive, "Resources": resources, "Labels": labels}


@pytest.mark.parametrize(
    ("gpus", "held"), [(0, 8), (1, 4), (0.5, 8), (0.25, 8), (2, 2), (3, 1), (4, 1), (5, 0), (0.3, 8), (0.6, 4)]
)
def test_a_node_holds_as_many_workers_as_its_scarcer_resource_allows(gpus, held):
    assert room([node(cpus=8, gpus=4)], [Group(gpus=gpus)]) == [held]


def test_nodes_without_cpus_for_work_hold_nobody():
    assert room([node(cpus=0), node(cpus=2, alive=False)], [Group()]) == [0]


def test_a_model_over_several_gpus_stays_on_one_node():
    assert room([node(gpus=3), node(gpus=3)], [Group(gpus=2)]) == [2]


def test_labels_and_accelerators_say_which_nodes_count():
    nodes = [node(gpus=2, accelerator="A100", market="spot"), node(gpus=4, accelerator="L4"), node(market="spot")]
    groups = [Group(gpus=1, accelerator="L4"), Group(gpus=1, accelerator="A100"), Group(labels={"market": "spot"})]
    assert room(nodes, groups) == [4, 2, 14]
    assert room(nodes, [Group(gpus=1, accelerator="L4", labels={"market": "spot"})]) == [0]


def test_groups_do_not_count_the_same_room_twice():
    assert room([node(cpus=4)], [Group(workers=3), Group()]) == [3, 1]


def test_a_number_of_workers_is_asked_for_whether_there_is_room_or_not():
    assert targets([node(cpus=2)], [Group(workers=5), Group()]) == [5, 0]


def test_one_is_asked_for_where_there_is_no_room_at_all():
    assert targets([node(cpus=0)], [Group(gpus=1), Group(gpus=0.5)]) == [1, 0]


def test_a_machine_without_the_gpus_asked_for_is_refused():
    with pytest.raises(InputError, match=r"asks for 2 GPU L4 per worker, and this machine has 1 GPUs in all: set gpus"):
        settle([Group(gpus=2, accelerator="L4")], [node(gpus=1)], True, False)


def test_a_cluster_without_them_is_waited_for():
    groups = (Group(gpus=1),)
    assert settle(groups, [node()], False, False) == groups


@pytest.mark.parametrize("here", [True, False])
def test_the_fallback_runs_on_cpus_and_says_so(here, caplog):
    assert settle([Group(workers=3, gpus=1)], [node()], here, True) == (Group(workers=3),)
    assert "running on CPU, far slower" in caplog.text


def test_the_fallback_is_left_alone_where_there_are_gpus():
    groups = (Group(gpus=1),)
    assert settle(groups, [node(gpus=1)], True, True) == groups


def test_the_fallback_keeps_groups_that_run_on_cpus_anyway():
    assert settle([Group(gpus=1), Group(workers=2)], [node()], False, True) == (Group(workers=2),)


def test_work_without_a_device_takes_every_cpu_but_for_a_limit_of_the_user():
    assert without_gpus([Group(workers=2, gpus=1)]) == CPUS
    assert without_gpus([Group(workers=2)]) == (Group(workers=2),)


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (0.25, "cuda"), (1, "cuda"), (2, "auto")])
def test_a_place_follows_from_the_gpus(gpus, device):
    assert Group(gpus=gpus, batch_tokens=512).place == Place(device=device, batch_tokens=512)
