"""The documentation's site: its menu names every page, pages made of the code say what the code says, and it builds."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from lmms_flow.flow import PRESET_NAMES, Flow, FlowError
from lmms_flow.flow.layout import GROUPS
from scripts.site import errors, language, pages

ROOT = Path(__file__).parents[1]
MADE = {"language-reference.md", "errors.md"}


def test_the_menu_names_every_page_once() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = re.findall(r"[\w-]+\.md", yaml.safe_dump(menu))
    assert sorted(named) == sorted({path.name for path in (ROOT / "docs").glob("*.md")} | MADE)


def test_the_languages_reference_is_the_parsers() -> None:
    page = language.page()
    for word in (*GROUPS, "cross_frame", "intra_frame", "first_half", "sham"):
        assert f"`{word}`" in page
    assert all(f"`{name}`" in page for name in PRESET_NAMES if not name.endswith("-closed"))
    assert "| `video` | · | ✓ |" in page
    assert "| `-16` | 1 to 16 |" in page
    assert "write question:video" not in page
    assert "did you mean" in page
    assert len(re.findall(r"`[0-9a-f]{12}`", page)) == len(language.EXAMPLES)


def test_error_messages_are_those_that_are_raised() -> None:
    listed = errors.messages()
    texts = {message.text for message in listed}
    assert "the flow is empty: write none for full attention" in texts
    assert len(listed) > 400
    assert {message.kind for message in listed} >= {
        "FlowError",
        "SampleError",
        "RunError",
        "RecordError",
        "ReportError",
    }
    with pytest.raises(FlowError) as caught:
        Flow.load("")
    assert str(caught.value) in texts
    page = errors.page()
    assert all(f"## {kind}" in page for kind in {message.kind for message in listed})


def test_each_error_message_has_a_page_of_its_own() -> None:
    made = errors.single_pages()
    assert len(made) == len(errors.messages())
    assert sorted(re.findall(r"\(errors/([^)]+)\)", errors.page())) == sorted(made)
    said = made["the-flow-is-empty-write-none-for-full-attention.md"]
    assert "of `lmms_flow/flow/language.py` raises it, where all of this holds" in said
    assert "[language.md](../language.md)" in said
    assert all((ROOT / "docs" / page).exists() for page in errors.PAGES.values())
    assert errors.ENDS.keys() == errors.KINDS.keys()


def test_what_holds_where_a_message_is_made() -> None:
    tree = ast.parse(
        "def f(a):\n  'Does. It.'\n  if a:\n    raise RunError(f'no {a} here')\n"
        "  elif b:\n    pass\n  else:\n    try:\n      g()\n    except OSError:\n"
        "      raise RunError('c' + d) from None\n"
    )
    found = list(errors._raised(tree, "m.py", (), ()))
    assert [(each.text, each.place, each.does) for each in found] == [
        ("no {a} here", "f", "Does. It."),
        ("c{d}", "f", "Does. It."),
    ]
    assert [each.conditions for each in found] == [("`a`",), ("not `a`", "not `b`", "`OSError` came up")]


def test_links_out_of_the_docs_are_named() -> None:
    said = pages.on_page_markdown("see [the card](../lmms_flow/assets/flow-tiny/README.md), [maps](maps.md)")
    assert said == "see the card (`lmms_flow/assets/flow-tiny/README.md` in the repository), [maps](maps.md)"


@pytest.mark.skipif(not (find_spec("mkdocs") and find_spec("mkdocstrings")), reason="needs the extra docs")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--quiet",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert "Flow.load" in (tmp_path / "site/api/index.html").read_text()
    assert "write none for full attention" in (tmp_path / "site/errors/index.html").read_text()
    one = tmp_path / "site/errors/the-flow-is-empty-write-none-for-full-attention/index.html"
    assert "raises it" in one.read_text()
