"""Which test files are asked about which source files: those that import it, and those that reach it through others."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
MOST = 4  # of the files that import it: what the others notice, these do as a rule

# What reaches a file without importing it; the quick ones first. A folder's tests come behind those of a file.
THROUGH_OTHERS: dict[str, tuple[str, ...]] = {
    "lmms_flow/flow/": ("flow", "properties", "group_words", "given", "words"),
    "lmms_flow/flow/shapes.py": ("ledger", "flops"),
    "lmms_flow/flow/trace_settings.py": ("trace_settings",),
    "lmms_flow/engine/": ("sparse", "engine"),
    "lmms_flow/engine/plan.py": ("properties", "strips", "sparse"),
    "lmms_flow/engine/masks.py": ("flow", "properties"),
    "lmms_flow/engine/baseline.py": ("baseline", "leaderboard"),
    "lmms_flow/engine/departure.py": ("baseline",),
    "lmms_flow/engine/fork.py": ("sweep",),
    "lmms_flow/engine/sweep.py": ("sweep",),
    "lmms_flow/engine/restoring.py": ("restoring",),
    "lmms_flow/engine/ledger.py": ("ledger", "flops", "measured"),
    "lmms_flow/engine/workload.py": ("ledger", "flops"),
    "lmms_flow/engine/vision.py": ("vision", "flops"),
    "lmms_flow/engine/vision_flops.py": ("flops", "vision"),
    "lmms_flow/engine/strips.py": ("strips",),
    "lmms_flow/engine/edge_attention.py": ("strips", "after_softmax"),
    "lmms_flow/engine/attention_rows.py": ("recorder", "readouts"),
    "lmms_flow/engine/recorder.py": ("recorder",),
    "lmms_flow/engine/gating.py": ("gates",),
    "lmms_flow/engine/head.py": ("sweep", "readouts"),
    "lmms_flow/engine/both_ways.py": ("both_ways",),
    "lmms_flow/engine/windows.py": ("windows",),
    "lmms_flow/engine/hooks.py": ("hooks_of_others", "contract"),
    "lmms_flow/engine/contract.py": ("contract",),
    "lmms_flow/engine/layer_call.py": ("layer_call",),
    "lmms_flow/engine/mechanisms.py": ("mechanisms",),
    "lmms_flow/engine/probe.py": ("mechanisms", "engine"),
    "lmms_flow/engine/proof.py": ("mechanisms", "engine"),
    "lmms_flow/engine/selfcheck.py": ("mechanisms", "engine"),
    "lmms_flow/engine/flex.py": ("flex",),
    "lmms_flow/records/": ("journal", "arrays", "fuzz"),
    "lmms_flow/records/key.py": ("journal", "identity"),
    "lmms_flow/inputs/": ("sampling", "video"),
    "lmms_flow/inputs/options.py": ("options", "groups"),
    "lmms_flow/inputs/groups.py": ("groups", "group_words", "prompts"),
    "lmms_flow/inputs/spans.py": ("groups", "tokenizer", "llava_vid"),
    "lmms_flow/inputs/bitstream.py": ("bitstream", "video", "videos"),
    "lmms_flow/inputs/container.py": ("video", "videos"),
    "lmms_flow/inputs/holes.py": ("bitstream", "videos"),
    "lmms_flow/inputs/track.py": ("video", "readers", "videos"),
    "lmms_flow/inputs/pyav.py": ("readers", "video", "videos"),
    "lmms_flow/inputs/processor_chat.py": ("processor_chat",),
    "lmms_flow/inputs/image_chat.py": ("llava_vid",),
    "lmms_flow/inputs/native_chat.py": ("processor_chat", "internvl"),
    "lmms_flow/inputs/frames_chat.py": ("videollama3",),
    "lmms_flow/inputs/chat.py": ("processor_chat", "prompts", "llava_vid"),
    "lmms_flow/inputs/frame_order.py": ("frame_order",),
    "lmms_flow/inputs/clock.py": ("sampling", "videollama3"),
    "lmms_flow/inputs/paper_prompt.py": ("prompts", "llava_vid"),
    "lmms_flow/report/statistics.py": ("statistics", "report"),
    "lmms_flow/report/clusters.py": ("clusters", "statistics"),
    "lmms_flow/report/equivalence.py": ("equivalence",),
}


def suite_of(file: str) -> list[str]:
    """The test files of a source file, in the order in which they are asked."""
    folder = f"{file.rpartition('/')[0]}/"
    others = [name for name in _importers(file) if not name.startswith("host_")]
    named = [*THROUGH_OTHERS.get(file, ()), *_own(file), *THROUGH_OTHERS.get(folder, ()), *others[:MOST]]
    found = (f"tests/test_{name}.py" for name in dict.fromkeys(named))
    return [path for path in found if (ROOT / path).is_file()]


def _own(file: str) -> list[str]:
    return [Path(file).stem]


def _importers(file: str) -> list[str]:
    """Test files that import the module by its name."""
    module = file.removesuffix(".py").replace("/", ".")
    return [
        path.stem.removeprefix("test_")
        for path in sorted(TESTS.glob("test_*.py"))
        if module in _imported(path)
    ]


def _imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
