"""The JSONL log of pretraining."""

from __future__ import annotations

import json
from pathlib import Path

from qwenlab.files import atomic_write_text


class Log:
    """A JSONL log that a resumed run continues as if it had never stopped: later lines of the lost part are cut."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        atomic_write_text(path, "".join(line + "\n" for line in kept))

    def write(self, **values: object) -> None:
        """Append one line and print it."""
        rounded = {key: round(v, 6) if isinstance(v, float) else v for key, v in values.items()}
        line = json.dumps(rounded)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)
