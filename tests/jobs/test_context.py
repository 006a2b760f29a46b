"""What a job's report may say."""

import math

from jobs.core.context import Metric, Report


def test_what_is_not_a_number_is_left_out_of_a_report_and_named():
    metrics = (
        Metric(name="kept", value=1.0, null=math.nan, about="share"),
        Metric(name="lost", value=math.nan, null=0.0),
        Metric(name="endless", value=math.inf),
    )
    found = Report(headline="h", metrics=metrics, notes=("a",)).finite
    assert found.metrics == (Metric(name="kept", value=1.0, about="share"),)
    assert found.notes == ("a", "Not defined here, or not finite: lost, endless.")


def test_a_report_of_numbers_stays_as_it_is():
    report = Report(headline="h", metrics=(Metric(name="kept", value=1.0, null=0.0),), notes=())
    assert report.finite == report
