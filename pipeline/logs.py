"""The log: one line per event on standard error, as plain text or as JSON; libraries only when something is wrong."""

import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import msgspec

Format = Literal["text", "json"]

FORMATS: tuple[Format, ...] = ("text", "json")
OURS = ("pipeline", "workers", "jobs", "storage")

log = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """A JSON object a line: time (UTC), level, logger, message, and what a call gave as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line | getattr(record, "fields", {}), enc_hook=str).decode()


def configure(form: Format) -> None:
    """Write the log to standard error in that form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for package in OURS:
        logging.getLogger(package).setLevel(logging.INFO)


def complain(text: str) -> None:
    """What ends a command, on standard error in the form of the log."""
    structured = any(isinstance(one.formatter, JsonFormatter) for one in logging.getLogger().handlers)
    if structured:
        log.error(text)
    else:
        print(f"garner: {text}", file=sys.stderr)
