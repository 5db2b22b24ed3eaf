"""The page in a headless Chromium, at two widths and in both schemes. Skipped where there is no Chromium.

LMMS_FLOW_CHROMIUM names one; else it is looked up by its usual names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lmms_flow.report.page.building import report
from lmms_flow.report.page.options import Options
from tests.support.chromium import Browser, chromium, find_chromium
from tests.support.looking import look
from tests.support.traced_runs import write_run

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium here (Debian: chromium-headless-shell)"
)
VIDEO = Path(__file__).parents[1] / "lmms_flow/assets/flowbench/clips/action_antonym-00-a.mp4"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of figure, and with frames of a video; its names are as long as names get."""
    folder = tmp_path_factory.mktemp("run")
    results = write_run(
        folder,
        video=str(VIDEO),
        clip="",
        num_frames=4,
        checkpoint="somebody/A-VideoLLM-of-a-very-long-name-7B",
    )
    report([results], folder / "report.html", Options(alone=True))
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    assert program is not None
    with chromium(program, tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_figure_is_drawn_and_nothing_is_cut_off(
    browser: Browser, page: Path, width: int, scheme: str
) -> None:
    browser.open(page, width, scheme=scheme)
    found = look(browser)
    assert found.pop("plots") == page.read_text().count("<svg") > 15
    assert found.pop("images") > 16, "frames of the cards, and attention on frames"
    assert found.pop("sideways") <= 0
    assert not any(found.values()), found
    assert browser.complaints == []
    foreign = [url for url in browser.requests if not url.startswith(("data:", page.as_uri()))]
    assert foreign == []


@pytest.mark.parametrize("width", [390, 1280])
def test_titles_of_tables_and_meanings_of_columns_fit(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    hidden = "[...document.querySelectorAll('caption span')].filter((title) => title.getClientRects().length"
    hidden += " && title.getBoundingClientRect().right > title.closest('.scroll').getBoundingClientRect().right + 1)"
    assert browser.run(f"{hidden}.map((title) => title.textContent)") == []
    wider = (
        "[...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth).length"
    )
    assert browser.run(wider) > 0, "a table is wider than its box, and its title is not"
    assert browser.run("document.querySelectorAll('details.columns').length") > 3
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    found = look(browser)
    assert found["sideways"] <= 0
    assert not any(found[name] for name in ("wide", "outside", "weak")), found
    tooltip = "document.querySelector('#board-tvbench thead button[title]').title"
    assert browser.run(tooltip) == "the benchmark run under one flow", "it stays where a head can be clicked"


def test_what_is_cut_off_is_found(browser: Browser, page: Path, tmp_path: Path) -> None:
    """The measures can fail: a wide word, a figure cut in half, faint ink, an image that is none."""
    text = page.read_text()
    broken = tmp_path / "broken.html"
    bad = '<p style="white-space: nowrap; width: 900px">wide</p><p style="color: #999">faint</p></main>'
    text = text.replace("</main>", bad, 1).replace('viewBox="0 0 270', 'viewBox="0 0 150', 1)
    broken.write_text(text)
    browser.open(broken, 390)
    found = look(browser)
    assert found["wide"]
    assert found["outside"]
    assert found["weak"]


def test_cards_are_filtered_and_sorted_and_tables_sorted(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    count = "[...document.querySelectorAll('.card')].filter((card) => !card.hidden).length"
    change = "(() => { const form = document.getElementById('filter'); form.elements.%s.value = '%s';"
    change += " form.dispatchEvent(new Event('input')); })()"
    assert browser.run(count) == 16
    browser.run(change % ("kind", "won"))
    assert browser.run(count) == 4
    browser.run(change % ("kind", ""))
    browser.run(change % ("text", "document 15"))
    assert browser.run(count) == 1
    browser.run(change % ("text", ""))
    browser.run(change % ("sort", "flips"))
    flips = browser.run(
        "[...document.querySelectorAll('.card')].map((card) => card.dataset.flips.split(',').length)"
    )
    assert flips == sorted(flips, reverse=True)
    board = "document.querySelector('#board-tvbench table')"
    click = f"{board}.querySelectorAll('thead button')[2].click()"
    shares = f"[...{board}.tBodies[0].rows].map((row) => parseFloat(row.cells[2].textContent))"
    browser.run(click)
    assert browser.run(shares) == [0.0, 68.8, 75.0]
    browser.run(click)
    assert browser.run(shares) == [75.0, 68.8, 0.0]
    assert browser.run(f"{board}.querySelectorAll('thead th')[2].getAttribute('aria-sort')") == "descending"
