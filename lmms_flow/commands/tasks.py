"""`lmms-flow tasks`: where our tasks are."""

from __future__ import annotations

import argparse

from .language import Commands
from .machines import add_json, print_json


def add(commands: Commands) -> None:
    """Adds the command to the parser's."""
    tasks = commands.add_parser(
        "tasks",
        help="the folder of our tasks, for lmms-eval --include_path",
        description="Prints the folder of this package's tasks, or with --list the names of all tasks and groups.",
    )
    tasks.add_argument("--list", action="store_true", help="the names of the tasks instead")
    add_json(tasks)
    tasks.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit status."""
    from ..harness.plugin import tasks_folder
    from ..harness.task_files import index_of

    folder = tasks_folder()
    if args.json:
        index = index_of(folder)
        listed = [{"name": name, "group": index[name]["type"] == "group"} for name in sorted(index)]
        print_json({"folder": str(folder), "tasks": listed})
        return 0
    if not args.list:
        print(folder)
        return 0
    for name in sorted(index_of(folder)):
        print(name)
    return 0
