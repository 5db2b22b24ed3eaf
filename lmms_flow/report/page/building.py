"""From lmms-eval's folders to the page and the files beside it: what `lmms-flow report` does."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from ... import __version__
from ...errors import ReportError
from ..board import Board, Settings, make_boards
from ..board_tables import all_tables
from ..maps import maps_of
from ..runs import Reading, read_runs
from ..table import Table
from ..traces import Traced, read_traces
from .beside_bases import beside_their_bases
from .board_section import board_sections, ledger_section
from .cards import Card, Deck, deal
from .claims_section import claims_section
from .failures import failure_section
from .files import write_figures, write_tables
from .findings import findings
from .fitting import fitted
from .gathered import gather
from .glossary import meaning_of, words_of_arms, words_of_columns
from .halves import halves
from .map_section import Drawn, map_section
from .options import Options
from .overlay import frames_with_attention, frames_with_words
from .parts import Section
from .pictures import page_style, slug
from .ran import commands, ran_section
from .readout_section import readout_sections
from .restoration_section import restoration_section
from .word_section import word_section

Folders = Sequence[str | Path]


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that was read and drawn."""

    boards: tuple[Board, ...]
    tables: tuple[tuple[Board, tuple[Table, ...]], ...]
    drawn: tuple[Drawn, ...]
    sections: tuple[Section, ...]
    deck: Deck
    notes: tuple[str, ...]
    files: tuple[Path, ...] = field(default=())

    @property
    def failures(self) -> int:
        """Samples that ended in an error or whose record can't be read."""
        arms = [entry.arm for board in self.boards for entry in board.entries]
        return sum(arm.count("error") + arm.count("unreadable") for arm in arms)


def report(folders: Folders, output: Path, options: Options) -> Report:
    """Reads the runs in `folders`, writes the page, and beside it its figures and tables. Raises ReportError.

    Args:
        folders: what `--output_path` named.
        output: the page; figures (PNG and SVG) and tables (CSV) go into a folder beside it, named like it.
        options: of the command.

    Returns:
        What was made, with the files that were written.
    """
    if output.suffix.lower() != ".html":
        raise ReportError(f"--output {output}: write a name that ends in .html")
    traced = read_traces(folders, options.records)
    made = make(read_runs(folders, options.records, unscored=bool(traced)), traced, options)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(html(made, folders), encoding="utf-8")
    beside = output.with_suffix("")
    files = [output]
    if not options.alone:
        files += write_tables(made.tables, made.sections, made.drawn, beside)
        files += write_figures(made.sections, beside)
    return Report(made.boards, made.tables, made.drawn, made.sections, made.deck, made.notes, tuple(files))


def make(reading: Reading, traced: Sequence[Traced], options: Options) -> Report:
    """Tests what was read and draws it; nothing is written."""
    settings = Settings(options.margin, options.seed)
    allowed = options.allow_differences
    boards = make_boards(reading.arms, settings, allow_differences=allowed, notes=reading.notes)
    tables = tuple((board, tuple(all_tables(board))) for board in boards)
    with page_style():
        drawn = tuple(
            Drawn.of(each, _name_of(each, place), options.seed) for place, each in enumerate(maps_of(traced))
        )
        sections = tuple(_sections(reading, boards, tables, drawn, traced, options))
    template = environment().get_template("card.html.j2")

    def render(card: Card) -> str:
        return template.render(card=card)

    deck = deal(boards, options.questions, render, with_frames=options.with_frames)
    notes = tuple(dict.fromkeys(note for board in boards for note in board.notes))
    return Report(tuple(boards), tables, drawn, sections, deck, notes)


def _name_of(each: Any, place: int) -> str:
    return slug(each.benchmark, "map", place + 1) if place else slug(each.benchmark)


def _sections(
    reading: Reading,
    boards: Sequence[Board],
    tables: Sequence[tuple[Board, tuple[Table, ...]]],
    drawn: Sequence[Drawn],
    traced: Sequence[Traced],
    options: Options,
) -> Iterable[Section]:
    of_arms, of_traces = commands(reading.runs, traces=False), commands(reading.runs, traces=True)
    yield ran_section(reading.runs, boards)
    yield from board_sections(tables, of_arms)
    verdicts = claims_section(boards, of_arms)
    if verdicts:
        yield verdicts
    more = (*halves(drawn, options.seed), *beside_their_bases(drawn, options.seed))
    maps = map_section(drawn, more, of_traces)
    if maps:
        yield maps
    restorations = restoration_section(traced, options.seed, of_traces)
    if restorations:
        yield restorations
    words = word_section(traced, options.seed, of_traces)
    if words:
        yield words
    drawers = {"attention": frames_with_attention, "lens": frames_with_words} if options.with_frames else {}
    for section in readout_sections(gather(traced), drawn, of_traces, options.seed):
        drawer = drawers.get(section.name)
        on_frames = drawer(traced) if drawer else None
        yield replace(section, blocks=(*section.blocks, *([on_frames] if on_frames else [])))
    failures = failure_section(boards, drawn, of_arms)
    if failures:
        yield failures
    if boards:
        yield ledger_section(boards, of_arms)


# The page


def environment() -> Environment:
    """Everything that comes from files and models is escaped."""
    made = Environment(
        loader=PackageLoader(__package__),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.globals |= {"meaning_of": meaning_of, "words_of_columns": words_of_columns}
    return made


def html(made: Report, folders: Folders) -> str:
    """The page, with nothing in it that is loaded from elsewhere."""
    templates = environment()
    page = templates.get_template("page.html.j2")
    script = templates.get_template("script.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    benchmarks = [board.benchmark for board in made.boards]
    said = {
        "title": ", ".join(benchmarks),
        "boards": [(board, findings(board, made.drawn)) for board in made.boards],
        "arms": words_of_arms([entry.arm for board in made.boards for entry in board.entries]),
        "several_arms": any(len(board.entries) > 1 for board in made.boards),
        "notes": made.notes,
        "command": shlex.join(["lmms-flow", "report", *map(str, folders)]),
        "compare": shlex.join(["lmms-flow", "compare", *map(str, folders)]),
        "script": Markup(script),  # our own, without values  # nosec B704
        "script_digest": digest,
        "version": __version__,
    }

    def render(deck: Deck, sections: Sequence[Section], left_out: int) -> str:
        cards = [Markup(card) for card in deck.cards]  # rendered with escapes  # nosec B704
        text = page.render(**said, sections=sections, deck=deck, cards=cards, figures_left_out=left_out)
        return re.sub(r"\n\s*\n+", "\n", text)

    with page_style():
        return fitted(render, made.deck, made.sections)
