"""The comparison of arms: one table for the terminal, one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from .drawing import literal
from .runs import Arm, arm_names, baseline_of
from .statistics import accuracy, paired


def comparison_table(arms: Sequence[Arm]) -> Table:
    """A row an arm: accuracy with its standard error and 95 % interval, difference to the baseline, edges, seconds."""
    table = Table(
        title="accuracy by arm (%)", title_justify="left", caption=_caption(arms), caption_justify="left"
    )
    table.add_column("checkpoint")
    table.add_column("arm")
    for head in (
        "n",
        "accuracy ± s.e.",
        "95 % interval",
        "Δ baseline",
        "p (McNemar)",
        "edges kept",
        "seconds",
        "errors",
    ):
        table.add_column(head, justify="right")
    for arm, name in zip(arms, arm_names(arms), strict=True):
        score = accuracy(arm)
        low, high = score.interval
        table.add_row(
            arm.checkpoint,
            name,
            str(score.total),
            f"{100 * score.value:.1f} ± {100 * score.error:.1f}",
            f"{100 * low:.1f} to {100 * high:.1f}",
            *_against_baseline(arm, arms),
            f"{100 * arm.share_kept:.1f} %",
            f"{arm.seconds:.1f}",
            str(arm.errors),
        )
    return table


def _caption(arms: Sequence[Arm]) -> str | None:
    """What the columns don't say: samples that are in no column, and a baseline that is not the obvious one."""
    unreadable = sum(arm.unreadable for arm in arms)
    said = []
    if unreadable:
        said.append(f"{unreadable} samples have no record that can be read; they are left out")
    if len({(arm.checkpoint, arm.frames) for arm in arms if arm.is_baseline}) > len(
        {arm.checkpoint for arm in arms if arm.is_baseline}
    ):
        said.append("baseline: none on as many frames; of none itself, none on the most frames")
    return "\n".join(said) or None


def _against_baseline(arm: Arm, arms: Sequence[Arm]) -> tuple[str, str]:
    baseline = baseline_of(arm, arms)
    if baseline is None:
        return "", ""
    test = paired(arm, baseline)
    return (
        f"{100 * test.difference:+.1f}",
        f"{test.p_value:.1e}" if test.p_value < 0.001 else f"{test.p_value:.3f}",
    )


def comparison_figure(arms: Sequence[Arm], file: Path) -> Path:
    """Accuracy of each arm in each task, with 95 % intervals, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tasks = sorted({task for arm in arms for task in arm.tasks})
    width = 0.8 / len(arms)
    figure, axes = plt.subplots(figsize=(max(6.0, 1.8 * (len(tasks) + 1)), 4.2), layout="constrained")
    with_checkpoint = len({arm.checkpoint for arm in arms}) > 1
    for place, (arm, name) in enumerate(zip(arms, arm_names(arms), strict=True)):
        label = f"{arm.checkpoint}: {name}" if with_checkpoint else name
        _bars(axes, arm, tasks, place * width, width, label)
    middles = [place + 0.4 - width / 2 for place in range(len(tasks) + 1)]
    for middle, task in zip(middles, (None, *tasks), strict=True):
        chance = 100 * arms[0].chance(task)
        axes.plot([middle - 0.45, middle + 0.45], [chance, chance], color="black", lw=0.8, ls=":")
    axes.set_xticks(middles, ["all", *(literal(_short(task)) for task in tasks)])
    axes.set_ylabel("accuracy (%)")
    axes.set_title("95 % intervals (Wilson); dotted: guessing", fontsize="small", loc="left")
    axes.set_ylim(0, 103)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(title="arm (edges kept)", fontsize="small", loc="outside lower center", ncols=4)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    plt.close(figure)
    return file


def _bars(axes: Any, arm: Arm, tasks: Sequence[str], offset: float, width: float, label: str) -> None:
    scores = [accuracy(arm), *(accuracy(arm, task) for task in tasks)]
    heights = [100 * score.value for score in scores]
    below = [100 * (score.value - score.interval[0]) for score in scores]
    above = [100 * (score.interval[1] - score.value) for score in scores]
    axes.bar(
        [x + offset for x in range(len(scores))],
        heights,
        width * 0.92,
        yerr=[[max(0.0, x) for x in below], [max(0.0, x) for x in above]],
        error_kw={"elinewidth": 0.9, "capsize": 1.5},
        label=f"{literal(label)} ({100 * arm.share_kept:.0f} %)",
    )


def _short(task: str) -> str:
    return task.removeprefix("flowbench_").replace("_", " ")
