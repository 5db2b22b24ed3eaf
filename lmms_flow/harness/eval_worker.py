"""A process that runs `lmms-flow eval` again and again: what is imported once serves every run.

It reads a JSON object a line from its standard input, `{"arguments": [...], "log": "FILE"}`, runs the evaluation with
everything that it prints in that file, and answers with its exit status in a line.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

from .evaluate import main as evaluate


def main() -> None:
    """Serves until its standard input is closed."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for line in sys.stdin:
        asked = json.loads(line)
        with Path(asked["log"]).open("w", encoding="utf-8") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)  # what libraries in C print goes there too
        status = evaluate(asked["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
        gc.collect()  # the model of this run, before the next one is loaded
        answers.write(f"{status}\n")
        answers.flush()


if __name__ == "__main__":
    main()
