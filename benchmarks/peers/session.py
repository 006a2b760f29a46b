"""A system at work in a process of its own, asked one thing at a time."""

import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.peers.material import Material

ROOT = Path(__file__).resolve().parent.parent.parent
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "2",
}


class Session:
    """Starts `benchmarks.peers.<name>` with an interpreter; what it prints goes to a log beside its store."""

    def __init__(self, name: str, python: Path, material: Material, folder: Path) -> None:
        self.name, self.store = name, folder / "stores" / name
        self.store.mkdir(parents=True, exist_ok=True)
        self._log = (folder / f"{name}.log").open("a")
        self._process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.peers.{name}", str(material.folder), str(self.store)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=os.environ | _OFFLINE,
        )

    def ask(self, what: str, **options: Any) -> Mapping[str, Any]:
        """The answer, or a `RuntimeError` with what the other side says."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # the empty answer says it
            print(json.dumps({"ask": what} | options), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"ended, see {self._log.name}"}
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._log, suppress(BrokenPipeError), self._process:  # of a question that nobody was there to read
            pass
