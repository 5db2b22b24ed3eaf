"""What README and docs say of files, figures and commands is so."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from lmms_flow import __version__, assets
from lmms_flow.cli import main
from lmms_flow.flow import PRESETS, Flow
from lmms_flow.report.pairing import Paired
from scripts.mutate.__main__ import RESULTS, read, told

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#]+)\)")
# In a code span or an indented block: the command, and what follows it there.
COMMAND = re.compile(r"(?:^ {4}|`)lmms-flow ([a-z]+)([^`\n]*)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_links_are_found() -> None:
    assert sum(len(LINK.findall(page.read_text())) for page in PAGES) > 20


def test_flows_in_the_readme_are_flows() -> None:
    table = (ROOT / "README.md").read_text().partition("| flow | what it cuts |")[2].partition("\n\n")[0]
    first_cells = "\n".join(row.split("|")[1] for row in table.splitlines() if "|" in row)
    texts = [
        text
        for text in re.findall(r"`([^`]+)`", first_cells)
        if not text.endswith(".yaml") and "PRESET" not in text
    ]
    assert len(texts) > 8
    for text in texts:
        Flow.load(text, checkpoint=PRESETS[0].checkpoints[0]).kept_edges(PRESETS[0].layout(), 32)


def test_the_readmes_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there, on a clip of flowbench: an answer of one token, and a curve over the layers."""
    shutil.copy(next((assets.flowbench_dir() / "clips").glob("moving_direction*.mp4")), tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    prompt, answer = names["prompt"], names["answer"]
    assert answer.shape[1] == prompt.inputs["input_ids"].shape[1] + 1
    assert names["curves"].probabilities.shape == (1, 12)


def test_the_read_outs_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands in docs/readouts.md: every axis is as long as it is said to be."""
    shutil.copy(next((assets.flowbench_dir() / "clips").glob("moving_direction*.mp4")), tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/readouts.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    lines = [
        f"last = {line}" if line.startswith(("gen", "logit", "att")) else line for line in block.splitlines()
    ]
    found = []
    for line in lines:
        exec(compile(line, "docs/readouts.md", "exec"), names)
        found.append(tuple(names["last"].shape) if line.startswith("last") else None)
    layout = names["prompt"].layout
    assert [each for each in found if each] == [
        (12, 2),
        (12, layout.size("video"), 5),
        (12, 1, len(layout.frames)),
    ]


def test_the_docs_give_the_read_outs_cost() -> None:
    rows = json.loads((ROOT / "benchmarks/results/readouts.json").read_text())["figures"]
    page = (ROOT / "docs/readouts.md").read_text()
    assert len(rows) > 3
    for row in rows:
        if row["shape"] == "small":
            assert f"| {row['what']} | {row['prefills']:.2f} |" in page


def test_flowbench_has_the_stated_number_of_questions() -> None:
    counted = sum(len(file.read_text().splitlines()) for file in assets.flowbench_dir().glob("*.jsonl"))
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", assets.flowbench_dir() / "README.md"):
        assert f"{counted} " in page.read_text()


def test_the_docs_give_the_benchmarks_figures() -> None:
    rows = json.loads((ROOT / "benchmarks/results/speed.json").read_text())["figures"]
    page = (ROOT / "docs/engine.md").read_text()
    printed = [float(x) for x in re.findall(r"\| ([0-9.]+) \|$", page, re.MULTILINE)]
    measured = {row["what"]: row["times faster"] for row in rows}
    assert len(printed) == len(measured)
    readme = " ".join((ROOT / "README.md").read_text().split())
    closed, swept = (
        next(v for k, v in measured.items() if k.startswith(name)) for name in ("prefill", "sweep")
    )
    assert f"is {closed:.1f} times faster than the stock model" in readme
    assert f"{swept:.0f} times faster than one masked forward each" in readme
    overhead = json.loads((ROOT / "benchmarks/results/overhead.json").read_text())["figures"]
    assert f"adds {overhead['plug-in at the start of lmms-eval, ms']:.0f} ms" in page
    assert f"takes {overhead['groups, resolving and planning of one prompt, ms']:.1f} ms" in page
    assert sorted(printed) == pytest.approx(sorted(measured.values()), rel=0.01)


def test_the_gpu_page_gives_the_benchmarks_figures() -> None:
    page = (ROOT / "docs/gpu.md").read_text()
    results = ROOT / "benchmarks/results"
    rows = json.loads((results / "speed-h200.json").read_text())["figures"]
    printed = re.findall(r"^\| .* \| ([\d,]+) \| .* \| (\d+) \| .* \| ([0-9.]+) \|$", page, re.MULTILINE)
    measured = [
        (f"{row['tokens']:,}", f"{1000 * row['seconds']:.0f}", f"{row['times faster']:.2f}") for row in rows
    ]
    assert sorted(printed) == sorted(measured)
    for row in (row for row in rows if "logits, sparse from dense" in row):
        off, noise = row["logits, sparse from dense"], row["logits, sham from none"]
        assert f"| {off:.3f} ({noise:.3f}) |" in page
    ways = ("masked", "strips", "flex")
    alone: dict[int, list[dict[str, float]]] = {}
    for one in json.loads((results / "long-h200.json").read_text())["figures"]:
        alone.setdefault(one["tokens"], []).append(one["times faster"])
    assert len(alone) == 4
    for tokens, (released, closed) in alone.items():
        cells = (f"{released[way]:.2f} / {closed[way]:.2f}" for way in ways)
        assert f"| {tokens:,} | {' | '.join(cells)} |" in page


def test_the_gpu_page_gives_the_other_card_s_figures() -> None:
    page, results = (ROOT / "docs/gpu.md").read_text(), ROOT / "benchmarks/results"
    closed, released, decoded, arms, swept, crossed = (
        row["times faster"] for row in json.loads((results / "speed-h100.json").read_text())["figures"]
    )
    table = page.partition("## On an H100")[2].partition("\n## ")[0]
    printed = re.findall(r"\| ([0-9./ ]+) \|$", table, re.MULTILINE)
    one = json.loads((results / "map-h100.json").read_text())
    assert printed == [
        f"{closed:.2f} / {released:.2f}",
        f"{decoded:.2f}",
        f"{arms:.2f}",
        f"{swept:.1f} / {crossed:.1f}",
        f"{one['times faster']:.1f}",
    ]
    assert f"A map takes {one['seconds, map']:.2f} seconds a question" in table
    assert f"take {60 * one['hours for 2500 questions']:.0f} minutes" in table
    costs = [row["prefills"] for row in json.loads((results / "readouts-h100.json").read_text())["figures"]]
    told = (f"probability {costs[0]:.2f}", f"last {costs[1]:.2f}", f"layers {costs[2]:.2f}")
    assert all(each in table for each in (*told, f"in one prefill {costs[-1]:.2f}"))


def test_the_docs_say_how_well_gate_gradients_foresee_a_sweep() -> None:
    rows = json.loads((ROOT / "benchmarks/results/gates.json").read_text())
    page = (ROOT / "docs/engine.md").read_text()
    maps = ("", " of the mean relative change", " of the mean map")
    names = [f"{what}{of}" for of in maps for what in ("spearman", "top tenth")]
    assert all(rows["8 steps"][name] >= 0.9 for name in names[:4])
    assert f"of the same takes {rows['sweep']['processor seconds a question']:.1f})" in page
    for way in ("first order", "5 steps", "8 steps"):
        cells = " | ".join(f"{rows[way][name]:.2f}" for name in names)
        seconds = f"{rows[way]['processor seconds a question']:.2g}"
        assert f"| {way} | {cells} | {seconds} s |" in page


def test_the_docs_say_what_the_search_found() -> None:
    """On held-out questions: equivalent within 2 points, sparser than the rule, random ones far worse, CMD below."""
    found = json.loads((ROOT / "benchmarks/results/search.json").read_text())
    page = (ROOT / "docs/discovery.md").read_text()
    held = {one["name"]: one for one in found["held_out"]}
    best, rule = held[found["best"]["name"]], held[found["rule"]["name"]]
    draws = [one for name, one in held.items() if name.startswith("random") and name.endswith(best["name"])]
    for one in (best, rule):
        paired = Paired(one["common"], one["right"], one["lost"], one["won"])
        assert paired.equivalence(0.02) < 0.05
        numbers = (one["edges"], one["flops"], one["accuracy"])
        assert (
            " | ".join(f"{100 * each:.1f} %" for each in numbers) + f" | {paired.equivalence(0.02):.4f} |"
            in page
        )
    assert best["edges"] < rule["edges"]
    readme = (ROOT / "README.md").read_text().split("`discover --search`")[1]
    assert f"with {100 * best['edges']:.0f} % of the edges" in readme
    assert f"pathway keeps {100 * rule['edges']:.0f} %" in readme
    notebook = (ROOT / "examples/finding_a_pathway.ipynb").read_text(encoding="utf-8")
    shares = (
        f"it finds {100 * best['edges']:.0f} % of the edges where the rule keeps {100 * rule['edges']:.0f} %"
    )
    assert shares in notebook
    assert len(draws) == 3
    between = [sorted(100 * one[what] for one in draws) for what in ("flops", "accuracy")]
    told = " | ".join(f"{low:.1f} to {high:.1f} %" for low, _, high in between)
    assert f"| {100 * draws[0]['edges']:.1f} % | {told} | 1 |" in page
    assert all(one["accuracy"] < best["accuracy"] - 0.5 for one in draws)
    assert found["areas"]["search"]["cmd"] < found["areas"]["rule"]["cmd"]
    areas = [
        f"{found['areas'][kind][area]:.2f}"
        for kind in ("search", "rule", "random")
        for area in ("cpr", "cmd")
    ]
    search, rest = page.split("CPR and CMD are ")[1].split(" for the search, ")
    ruled, drawn = rest.split(" for the rule at several thresholds, ")
    assert [*search.split(" and "), *ruled.split(" and "), *drawn.split(" for\n")[0].split(" and ")] == areas


def test_edge_counts_in_the_papers_table() -> None:
    page = (ROOT / "docs/paper.md").read_text()
    presets = [preset for preset in PRESETS if preset.from_paper]
    assert len(presets) > 2
    for preset in presets:
        kept, total = Flow.load(preset.name).kept_edges(preset.layout(), preset.layers)
        assert f"| `{preset.name}` | {100 * kept / total:.1f} % of {total / 1e6:.1f}M |" in page


def test_the_language_page_lists_the_presets() -> None:
    page = (ROOT / "docs/language.md").read_text()
    for preset in PRESETS:
        ranges = f"{preset.cross_frame} | {preset.video_question} | {preset.question_last}"
        finder = "the paper" if preset.from_paper else "us, by the paper's rule"
        assert f"| `{preset.name}` | {preset.layers} | {ranges} | {finder}" in page


def test_the_yaml_examples_are_flows(tmp_path: Path) -> None:
    page = (ROOT / "docs/language.md").read_text().partition("## YAML")[2]
    examples = re.findall(r"^    (\{.*\})$", page, re.MULTILINE)
    assert len(examples) == 6
    for number, example in enumerate(examples):
        file = tmp_path / f"{number}.yaml"
        file.write_text(example)
        flow = Flow.load(file)
        flow.bind(flow.layers or 32)


def test_versions_agree() -> None:
    assert f"version = {__version__}\n" in (ROOT / "setup.cfg").read_text()


def test_commands_in_the_readme_and_the_docs_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """With the options that are given to them; those of `lmms-flow eval` are lmms-eval's."""

    def told(*command: str) -> str:
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        return capsys.readouterr().out

    known = re.findall(r"^    ([a-z]+) ", told(), re.MULTILINE)
    written = [found for page in PAGES for found in COMMAND.findall(page.read_text())]
    assert {command for command, _ in written} == set(known), "each is shown somewhere, and no other"
    options = [
        (command, each)
        for command, rest in written
        if command != "eval"
        for each in re.findall(r"--[a-z-]+", rest)
    ]
    assert len(options) > 10
    for command, option in options:
        assert re.search(rf"{option}\b", told(command)), f"lmms-flow {command} {option}"


def test_the_coverage_of_boards_is_the_benchmarks() -> None:
    """Of a leaderboard's intervals, of one arm and of all at once."""
    made = json.loads((ROOT / "benchmarks/results/coverage_boards.json").read_text())
    text = (ROOT / "docs/leaderboard.md").read_text()
    for row in made["rows"]:
        shares = " | ".join(
            f"{100 * row[name]:.1f} %"
            for name in ("difference", "difference_independent", "accuracy", "accuracy_independent")
        )
        both = f"{100 * row['max_t']:.1f} % | {100 * row['each_alone']:.1f} %"
        assert f"| {row['videos']} | {row['design_effect']} | {shares} | {both} |" in text
        assert min(row["difference"], row["accuracy"], row["max_t"]) > 0.93
        assert row["each_alone"] < 0.9
        assert row["design_effect"] == 1 or row["difference_independent"] < 0.9


def test_the_coverage_of_intervals_is_the_benchmarks() -> None:
    """Each row of the table: 94 to 96 % with clusters; without, below 90 % where questions share."""
    made = json.loads((ROOT / "benchmarks/results/coverage.json").read_text())
    text = (ROOT / "docs/claims.md").read_text()
    assert made["boards"] == 2000
    for row in made["rows"]:
        shares = f"{100 * row['clustered']:.1f} % | {100 * row['independent']:.1f} %"
        assert f"| {row['clips']} | {row['design_effect']} | {100 * row['change']:g} | {shares} |" in text
        assert 0.94 <= row["clustered"] <= 0.96
        assert row["design_effect"] == 1 or row["independent"] < 0.9
    assert max(row["design_effect"] for row in made["rows"]) > 2.9


def test_the_docs_give_the_score_of_seeded_bugs() -> None:
    page, lines = (ROOT / "docs/limits.md").read_text(), read(RESULTS).values()
    assert len(lines) == 670
    for by_hand in (True, False):
        assert told(lines, by_hand) in page
    others = read(RESULTS.with_stem("mutants-unseen")).values()
    assert len(others) == 120
    assert told(others, by_hand=False) in page
