"""`submit`: a recipe as a job on a cluster."""

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.parsers import Commands, add_recipe

if TYPE_CHECKING:
    from pipeline.submit import Submission
    from workers.submission import Jobs

log = logging.getLogger(__name__)


def add(commands: Commands) -> None:
    """Declare them."""
    help_text = "run a recipe as a job on a Ray cluster, and follow it"
    sub = commands.add_parser("submit", help=help_text, description=help_text)
    add_recipe(sub)
    sub.add_argument("--address", required=True, metavar="URL", help="job server, e.g. http://127.0.0.1:8265")
    sub.add_argument("--command", dest="task", choices=("run", "nightly"), default="run", help="what to do there")
    sub.add_argument("--id", metavar="NAME", help="submission id (default: made from the recipe)")
    sub.add_argument("--no-wait", action="store_true", help="send it and return")
    sub.add_argument("--shared-disk", action="store_true", help="every machine there sees this machine's paths")
    sub.set_defaults(command=_submit)


def _submit(arguments: argparse.Namespace) -> int:
    from pipeline.recipe import read
    from pipeline.run import survey
    from pipeline.submit import named, prepare
    from workers.submission import connect, job_server

    url = job_server(arguments.address)
    opened = read(arguments.recipe, arguments.set)
    submission = prepare(arguments.recipe, arguments.set, opened, arguments.task, arguments.log, arguments.shared_disk)
    if arguments.id:
        submission = named(submission, arguments.id)
    jobs = connect(url)
    steps = survey(opened)[1]
    job = jobs.running(submission.name)
    if job:
        log.info("job %s is under way: following it", job)
    elif arguments.task == "run" and all(step.done for step in steps):
        print("nothing is missing: nothing was sent")
        return 0
    else:
        job = _send(jobs, submission)
    return 0 if arguments.no_wait else _follow(jobs, job, arguments.address)


def _send(jobs: "Jobs", submission: "Submission") -> str:
    from pipeline.submit import package

    with tempfile.TemporaryDirectory() as folder:
        metadata = {"garner": submission.note.version, "code": submission.note.code}
        job = jobs.submit(submission.name, package(submission, Path(folder)), metadata)
    log.info("job %s was sent: garner %s, code %s", job, submission.note.version, submission.note.code)
    return job


def _follow(jobs: "Jobs", job: str, address: str) -> int:
    def write(text: str) -> None:
        print(text, end="", flush=True)

    try:
        return jobs.follow(job, write)
    except KeyboardInterrupt:
        mode = "RAY_AUTH_MODE=token " if jobs.token else ""
        print(
            f"\ngarner: left the job {job}, which goes on; the same command follows it again, and this stops it:\n"
            f"  {mode}ray job stop --address {address} {job}",
            file=sys.stderr,
        )
        return 130
