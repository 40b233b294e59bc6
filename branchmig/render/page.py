"""A page for people: lines and tables, laid out for a terminal or for a pipe.

On a terminal a table has a box and colours and keeps to the width: what is optional is left out
where it does not fit, sentences stand below the table, and where not even the rest fits each row
becomes a short list. In a pipe a row is one line, whole, without colour or box, so that `grep`
finds a branch together with all that is said of it. Text is shown as it is on both, never obeyed:
no Rich markup, no control characters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from .text import visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table as RichTable
    from rich.text import Text

_NOTHING = "-"

Row = tuple[str | None, ...]
"""A cell for each column of a table; None or an empty one is shown as a dash."""


@dataclass(frozen=True, slots=True)
class Column:
    """`optional`: above 0 it may be left out of a table that is too wide, the highest first.
    `wraps`: holds a list that may be broken at spaces. `sentence`: belongs below the table.
    `styles`: the Rich style of a cell by its text.
    """

    title: str
    optional: int = 0
    wraps: bool = False
    sentence: bool = False
    styles: Mapping[str, str] = field(default_factory=dict)


class Table:
    """Rows under columns. The first column names the row and is neither optional nor a sentence."""

    def __init__(self, columns: Iterable[Column], rows: Iterable[Row]) -> None:
        self.columns = tuple(columns)
        self.rows = [tuple(visible(cell or _NOTHING) for cell in row) for row in rows]

    def first(self, count: int) -> Table:
        """The same with no more than so many rows."""
        table = Table(self.columns, ())
        table.rows = self.rows[:count]
        return table


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text. `code` is never broken, so that it can be copied from the terminal."""

    text: str
    style: str = ""
    code: bool = False


class Page:
    """Lines and tables, one below the other. Also a Rich renderable."""

    def __init__(self, *blocks: Line | Table) -> None:
        self.blocks = blocks

    def plain(self) -> str:
        """The page for a pipe or a file."""
        lines = (line for block in self.blocks for line in _plain(block))
        return "".join(f"{line}\n" for line in lines)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        for block in self.blocks:
            if isinstance(block, Line):
                yield _text(block)
            elif block.rows:
                yield from _laid_out(block, options.max_width)


def print_table(page: Page, file: TextIO, width: int | None = None) -> None:
    """Write `page` to `file` in the way that suits it.

    `width` in columns, None: the terminal's own. What the file's encoding lacks is escaped.
    """
    text = _painted(page, file, width) if file.isatty() else page.plain()
    encoding = getattr(file, "encoding", None) or "utf-8"
    file.write(text.encode(encoding, "backslashreplace").decode(encoding))


# In a pipe ----------------------------------------------------------------------------------------


def _plain(block: Line | Table) -> Iterator[str]:
    if isinstance(block, Line):
        yield visible(block.text)
    elif block.rows:
        fixed = [i for i, column in enumerate(block.columns) if not column.sentence]
        widths = [_width(block, i) for i in fixed]
        titles = tuple(column.title for column in block.columns)
        yield _aligned([titles[i] for i in fixed], widths)
        for row in block.rows:
            # Sentences are named rather than aligned: one long one would push all others away.
            told = [f"{block.columns[i].title}: {row[i]}" for i in _sentences(block, row)]
            yield "  ".join([_aligned([row[i] for i in fixed], widths), *told])


def _aligned(cells: list[str], widths: list[int]) -> str:
    padded = (c + " " * (width - _cells(c)) for c, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def _sentences(table: Table, row: tuple[str, ...]) -> list[int]:
    return [i for i, c in enumerate(table.columns) if c.sentence and row[i] != _NOTHING]


def _width(table: Table, column: int, *, unbroken: bool = False) -> int:
    """The terminal cells that a column takes, or where it may be broken its longest word."""
    texts = [table.columns[column].title, *(row[column] for row in table.rows)]
    if unbroken:
        texts = [word for text in texts for word in text.split(" ")]
    return max(map(_cells, texts))


def _cells(text: str) -> int:
    """How many terminal cells `text` takes: East Asian letters two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        2 if unicodedata.east_asian_width(letter) in "WF" else not unicodedata.combining(letter)
        for letter in text
    )


# On a terminal ------------------------------------------------------------------------------------


def _painted(page: Page, file: TextIO, width: int | None) -> str:
    from rich.console import Console

    console = Console(file=file, force_terminal=True, width=width, highlight=False)
    with console.capture() as capture:
        console.print(page, crop=False)
    # Rich fills lines up to the width; the blanks would only get into what is copied.
    return "".join(f"{line.rstrip(' ')}\n" for line in capture.get().splitlines())


def _laid_out(table: Table, width: int) -> Iterator[RenderableType]:
    fitting = _fitting(table, width)
    if fitting:
        yield _boxed(table, fitting)
    for row in table.rows:
        below = _sentences(table, row) if fitting else range(1, len(row))
        told = [i for i in below if row[i] != _NOTHING]
        if told or not fitting:
            yield from _listed(table, row, told)


def _fitting(table: Table, width: int) -> list[int]:
    """The columns that the box holds; none where not even the indispensable ones fit."""
    columns = table.columns
    needed = {i: _width(table, i, unbroken=column.wraps) + 3 for i, column in enumerate(columns)}
    chosen = [
        i
        for i, column in enumerate(columns)
        if not column.sentence
        and not (column.optional and all(row[i] == _NOTHING for row in table.rows))
    ]
    while sum(needed[i] for i in chosen) + 1 > width:
        optional = [i for i in chosen if columns[i].optional]
        if not optional:
            return []
        chosen.remove(max(optional, key=lambda i: columns[i].optional))
    return chosen


def _boxed(table: Table, chosen: list[int]) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable

    boxed = RichTable(box=box.ROUNDED, header_style="bold")
    for i in chosen:
        boxed.add_column(table.columns[i].title, no_wrap=not table.columns[i].wraps)
    for row in table.rows:
        boxed.add_row(*(_cell(table, i, row[i]) for i in chosen))
    return boxed


def _listed(table: Table, row: tuple[str, ...], told: Iterable[int]) -> Iterator[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    yield Text(row[0], "bold")
    for i in told:
        title = Text(f"{table.columns[i].title}: ", "dim")
        yield Padding(title + _cell(table, i, row[i]), (0, 0, 0, 2))


def _cell(table: Table, column: int, text: str) -> Text:
    from rich.text import Text

    return Text(text, table.columns[column].styles.get(text, ""))


def _text(line: Line) -> Text:
    from rich.text import Text

    text = Text(visible(line.text), line.style)
    if line.code:
        text.no_wrap, text.overflow = True, "ignore"
    return text
