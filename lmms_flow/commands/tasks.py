"""`lmms-flow tasks`: where our tasks are."""

from __future__ import annotations

import argparse

from .language import Commands


def add(commands: Commands) -> None:
    """Adds the command to the parser's."""
    tasks = commands.add_parser("tasks", help="the folder of our tasks, for lmms-eval --include_path")
    tasks.add_argument("--list", action="store_true", help="the names of the tasks instead")
    tasks.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit status."""
    from ..harness.plugin import tasks_folder
    from ..harness.task_files import index_of

    folder = tasks_folder()
    if not args.list:
        print(folder)
        return 0
    for name in sorted(index_of(folder)):
        print(name)
    return 0
