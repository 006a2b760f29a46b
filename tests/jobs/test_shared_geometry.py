"""T8 to T10: two models of unequal width that learnt one language share its geometry, at every scale."""

import pytest

import jobs.geometry as geometry
from examples import topics
from jobs.geometry.config import Config, Side
from jobs.geometry.space import Dimension
from storage import Site
from tests.pairs import Pair

EMBED, UNEMBED = Site("embed"), Site("unembed")


def compared(run_job, pair, site, **kw):
    chosen = {"skip": 0, "dimension": Dimension(k=100, points=100)} | kw
    config = Config(cache="narrow", site=site, against=Side(cache="wide", site=site), **chosen)
    report, _ = run_job(geometry, config, {"narrow": pair.narrow_vocabulary, "wide": pair.wide_vocabulary})
    return {metric.name: metric for metric in report.metrics}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    base = tmp_path_factory.mktemp("untrained")
    for name, size in topics.SIZES.items():
        topics.train(base / "models" / name, size, tied=True, steps=0)
    return Pair(base / "models", base)


def test_tables_agree_on_what_is_alike(run_job, pairs, untrained):
    """T8."""
    found = compared(run_job, pairs.tied, EMBED)
    cosine = found["similarity"]
    assert cosine.value >= 0.70
    assert abs(cosine.null) <= 0.02
    nothing = compared(run_job, untrained, EMBED)
    assert abs(nothing["similarity"].value) <= 0.03


def test_untied_models_agree_on_what_they_write_more_than_on_what_they_read(run_job, pairs):
    """T9."""
    written, read = (compared(run_job, pairs.untied, site)["similarity"].value for site in (UNEMBED, EMBED))
    assert written >= 0.65
    assert written - read >= 0.25


def test_neighbourhoods_agree(run_job, pairs):
    """T10, but for the dimension's neighbours: with 40, fewer than the widths, it is the ceiling that is measured."""
    found = compared(run_job, pairs.tied, EMBED, k=10, dimension=Dimension(k=80, points=400))
    assert found["weights"].value >= 0.20
    assert abs(found["weights"].null) <= 0.03
    assert found["overlap"].value >= 0.4
    assert found["overlap"].null <= 0.05
    assert found["dimension_r"].value >= 0.8
    assert abs(found["dimension_r"].null) <= 0.1
