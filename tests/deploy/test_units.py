"""The timer, the service and the crontab line run `garner nightly`, hold no secrets and give nothing away."""

import configparser
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime

import pytest
from cronsim import CronSim

from tests.deploy.pins import DEPLOY, SECRET

SERVICE = (DEPLOY / "systemd" / "garner-nightly.service").read_text()
TIMER = (DEPLOY / "systemd" / "garner-nightly.timer").read_text()
CRONTAB = (DEPLOY / "cron" / "garner.crontab").read_text()
NIGHTLY = "garner nightly /etc/garner/nightly.toml"


def unit(text):
    """The sections of a unit; of a key that is given twice, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read_string(text)
    return parser


def service_faults(text):
    service = unit(text)["Service"]
    wanted = {
        "Type": "oneshot",
        "User": "garner",
        "EnvironmentFile": "-/etc/garner/environment",
        "KillSignal": "SIGINT",
        "NoNewPrivileges": "true",
        "PrivateTmp": "true",
        "ProtectSystem": "strict",
        "ProtectHome": "true",
        "RestrictSUIDSGID": "true",
        "CapabilityBoundingSet": "",
    }
    found = [f"{key} is not {value}" for key, value in wanted.items() if service.get(key) != value]
    found += [f"looks like a key: {hit[0]}" for hit in SECRET.finditer(text)]
    if "RAY_AUTH_MODE=token" not in text:
        found.append("Ray does not decide to ask for tokens")
    if "Restart" in service or "TimeoutStartSec" not in service:
        found.append("a night may run for ever")
    return found + ([] if service["ExecStart"].endswith(f"/bin/{NIGHTLY}") else ["runs something else"])


def timer_faults(text):
    timer = unit(text)["Timer"]
    found = [] if timer.get("Persistent") == "true" else ["a night that was missed is lost"]
    if not re.fullmatch(r"\*-\*-\* \d\d:\d\d:\d\d UTC", timer.get("OnCalendar", "")):
        found.append("not once a night, or not in a time zone")
    return found + ([] if unit(text)["Install"]["WantedBy"] == "timers.target" else ["starts with nothing"])


def crontab_faults(text):
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    jobs = [line for line in lines if not re.match(r"\w+=", line)]
    if len(jobs) != 1:
        return ["not one line that runs"]
    *when, command = jobs[0].split(None, 5)
    found = [f"looks like a key: {hit[0]}" for hit in SECRET.finditer(text)]
    try:
        nights = CronSim(" ".join(when), datetime(2026, 1, 1, tzinfo=UTC))
        first, second = next(nights), next(nights)
    except Exception as error:
        return [*found, f"never fires: {error!r}"]
    if (second - first).days != 1:
        found.append("not once a night")
    if "%" in command or subprocess.run(["bash", "-n", "-c", command], capture_output=True).returncode:
        found.append("cron cannot run it")
    if "RAY_AUTH_MODE=token" not in command:
        found.append("Ray does not decide to ask for tokens")
    return found + ([] if command.endswith(f"/bin/{NIGHTLY}") else ["runs something else"])


def test_the_units_and_the_crontab_are_good():
    assert service_faults(SERVICE) == []
    assert timer_faults(TIMER) == []
    assert crontab_faults(CRONTAB) == []


SERVICE_MISTAKES = [
    ("Type=oneshot", "Type=simple"),
    ("EnvironmentFile=", "Environment=AWS_SECRET_ACCESS_KEY=x\n#"),
    ("NoNewPrivileges=true\n", ""),
    ("ProtectSystem=strict", "ProtectSystem=false"),
    ("User=garner\n", ""),
    ("RAY_AUTH_MODE=token ", ""),
    ("garner nightly", "garner run"),
    ("TimeoutStartSec=10h", "Restart=always"),
]
TIMER_MISTAKES = [
    ("Persistent=true", "Persistent=false"),
    (" UTC", ""),
    ("OnCalendar=*-*-* 02:00:00", "OnCalendar=hourly"),
    ("timers.target", "multi-user.target"),
]
CRONTAB_MISTAKES = [
    ("0 2 * * *", "0 25 * * *"),
    ("0 2 * * *", "0 2 * *"),
    ("0 2 * * *", "0 * * * *"),
    ("0 2 * * *", "0 2 31 2 *"),
    ("RAY_AUTH_MODE=token ", ""),
    ("set -a;", "export AWS_SECRET_ACCESS_KEY=x;"),
    ("set -a;", "date +%F;"),
    ("garner nightly", "garner run"),
    ("[ ! -f", "( ! -f"),
]


@pytest.mark.parametrize(
    ("faults", "text", "right", "wrong"),
    [
        *((service_faults, SERVICE, *mistake) for mistake in SERVICE_MISTAKES),
        *((timer_faults, TIMER, *mistake) for mistake in TIMER_MISTAKES),
        *((crontab_faults, CRONTAB, *mistake) for mistake in CRONTAB_MISTAKES),
    ],
)
def test_a_planted_mistake_is_refused(faults, text, right, wrong):
    assert right in text
    assert faults(text.replace(right, wrong))


def test_the_crontab_line_gives_the_command_its_environment(tmp_path):
    (tmp_path / "environment").write_text("AWS_REGION=eu-west-1\n")
    shown = tmp_path / "garner"
    shown.write_text("#!/bin/sh\necho $AWS_REGION $RAY_AUTH_MODE $1; exit 2\n")
    shown.chmod(0o755)
    command = CRONTAB.splitlines()[-1].split(None, 5)[5]
    command = command.replace("/etc/garner/environment", str(tmp_path / "environment"))
    command = command.replace("/opt/garner/.venv/bin/garner", str(shown))
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert (done.stdout, done.returncode) == ("eu-west-1 token nightly\n", 2)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_the_units(tmp_path):
    binary = tmp_path / "garner"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    for name, text in (("garner-nightly.service", SERVICE), ("garner-nightly.timer", TIMER)):
        (tmp_path / name).write_text(text.replace("/opt/garner/.venv/bin/garner", str(binary)))
    units = [str(path) for path in tmp_path.glob("garner-nightly.*")]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "garner" in line]
    assert (ours, done.returncode) == ([], 0)
