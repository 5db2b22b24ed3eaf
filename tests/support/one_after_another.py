"""lmms-eval once for each model in one process, so that all of it is imported once.

    python -m tests.support.one_after_another runs.json

The file lists runs: `arguments` of lmms-eval, and `ended`, a file that gets the run's exit status.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from lmms_eval.cli.dispatch import main as lmms_eval


def main() -> None:
    for run in json.loads(Path(sys.argv[1]).read_text()):
        sys.argv = ["lmms-eval", *run["arguments"]]
        status = status_of_run()
        sys.stderr.flush()
        file = Path(run["ended"])
        file.with_suffix(".part").write_text(str(status))
        file.with_suffix(".part").rename(file)


def status_of_run() -> int:
    """As Python would end with: a text is printed, and is status 1."""
    try:
        lmms_eval()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return int(ended.code or 0)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def runs(folder: Path, models: dict[str, tuple[str, str]], arguments: list[str]) -> list[dict[str, Any]]:
    """What is to be run: each of `models`, a model id and its `--model_args`, in a folder of its name."""
    made = []
    for name, (model, given) in models.items():
        records = f"records={folder / name / 'records'}"
        own = [
            "--model",
            model,
            "--model_args",
            f"{given},{records}",
            "--output_path",
            str(folder / name / "out"),
        ]
        made.append({"arguments": [*own, *arguments], "ended": str(folder / f"{name}.ended")})
    return made


if __name__ == "__main__":
    main()
