"""CSV files at the command line: what their columns are, and how they become numbers, now and later on.

A column of numbers is one input. A column of text is one input for each of its texts, 1 where a row has it
and 0 elsewhere. What the columns were is kept in the saved network's file, as JSON under ``KEY`` of its
metadata, so that rows to predict become numbers in the same way.
"""

import contextlib
import csv
import io
import itertools
import json
import math
import re
from dataclasses import dataclass

import numpy as np

from . import validation

# Of the file's metadata. The version goes up when older versions of fastbp would misread what is there.
KEY = "fastbp.table"
FORMAT_VERSION = 1

# A column of integers with so many different values at most is taken for classes; so many are named.
MOST_CLASSES = 20

# A table is in memory as float64, where each text is a column: so many numbers at most, a gibibyte.
MOST_NUMBERS = 1 << 27

# What other programs write for a cell that has no value.
MISSING = {"na", "n/a", "nan", "null", "none"}

# A number in another spelling: 0,5 or 1.234,5 or 12 % or $-3 or (4); signs, spaces and quotes may be any.
_NEARLY_A_NUMBER = re.compile(
    r"""\(? [-+]? [$€£¥]?\ ? [-+]?
    (\d*[.,]?\d+ | \d{1,3}([.,'\ ]\d{2,3})+([.,]\d+)?) (e[-+]?\d+)?
    \ ?[%$€£¥]? \)?""",
    re.VERBOSE | re.IGNORECASE,
)
_PLAIN = str.maketrans({"−": "-", "’": "'", "\u00a0": " ", "\u2009": " ", "\u202f": " "})

# Numbers are standardised, and the squares of larger ones overflow.
LARGEST = 1e150


@dataclass(frozen=True)
class Table:
    """A file's cells as text: names of the columns, rows, and the line of each row."""

    path: str
    names: list[str]
    rows: list[list[str]]
    lines: list[int]

    def __len__(self):
        return len(self.rows)

    def cells(self, name):
        """The cells of a column."""
        at = self.names.index(name)
        return [row[at] for row in self.rows]

    def check_name(self, name):
        """Raise ValueError where there is no such column."""
        validation.known_name(f"column of {self.path}", name, self.names)


@dataclass(frozen=True)
class Column:
    """An input: a number, or one of the texts in `categories`."""

    name: str
    categories: tuple[str, ...] | None = None

    @property
    def width(self):
        """How many inputs of the network it is."""
        return 1 if self.categories is None else len(self.categories)

    def encode(self, table):
        """Its numbers in a table, (n, width)."""
        cells = table.cells(self.name)
        if self.categories is None:
            return as_numbers(table, self.name)[:, None]
        _refuse_empty(table, self.name)
        places = {text: place for place, text in enumerate(self.categories)}
        x = np.zeros((len(cells), self.width))
        for i, (cell, line) in enumerate(zip(cells, table.lines, strict=True)):
            if cell not in places:
                raise ValueError(
                    f"{table.path}, line {line}: {self.name!r} must be one of the texts that were there in "
                    f"training, {listed(self.categories)}; got {cell!r}"
                )
            x[i, places[cell]] = 1.0
        return x


@dataclass(frozen=True)
class Description:
    """What is remembered of a table: its inputs, the target, and the names of the classes, if it is one."""

    inputs: tuple[Column, ...]
    target: str
    classes: tuple[str, ...] | None

    def encode(self, table):
        """The inputs of a network, float64 (n, n_inputs)."""
        for column in self.inputs:
            if column.name not in table.names:
                raise ValueError(
                    f"{table.path} must have the column {column.name!r}, which the network was trained on; "
                    f"it has {listed(table.names)}"
                )
        return np.concatenate([column.encode(table) for column in self.inputs], axis=1)

    def to_json(self):
        """Text for a file's metadata."""
        inputs = [{"name": column.name, "categories": column.categories} for column in self.inputs]
        described = dict(inputs=inputs, target=self.target, classes=self.classes)
        return json.dumps({"format_version": FORMAT_VERSION} | described, ensure_ascii=False)

    @classmethod
    def from_json(cls, path, text, n_inputs, n_outputs):
        """What `to_json` returned, for a network of so many inputs and outputs in a file.

        Raises
        ------
        ValueError
            If there is nothing (None), or nothing that fits the network.
        """
        if text is None:
            raise ValueError(
                f"{path} does not know the columns of a table; `fastbp train data.csv` writes files that do"
            )
        try:
            found = json.loads(text)
            if validation.integer("format_version", found["format_version"], at_least=1) > FORMAT_VERSION:
                raise ValueError(f"{path} was written by a newer fastbp")
            inputs = tuple(Column(str(each["name"]), _texts(each["categories"])) for each in found["inputs"])
            description = cls(inputs, str(found["target"]), _texts(found["classes"]))
        except (KeyError, TypeError, RecursionError, json.JSONDecodeError):
            raise ValueError(f"{path} is damaged: it does not describe a table") from None
        outputs = 1 if description.classes is None else len(description.classes)
        if (sum(column.width for column in inputs), outputs) != (n_inputs, n_outputs):
            raise ValueError(f"{path} is damaged: its table does not fit its network")
        return description


def _texts(texts):
    return None if texts is None else tuple(map(str, texts))


def listed(texts):
    """Some texts, one after the other; the first of many."""
    return ", ".join(texts[:MOST_CLASSES]) + (", …" if len(texts) > MOST_CLASSES else "")


def read(path, least_rows=2, wanted="a CSV file"):
    """The table in a CSV file with commas, semicolons or tabs; `wanted` is what might have been given.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no table, or has fewer rows than these.
    """
    if not path.exists():
        raise ValueError(f"there is no file {str(path)!r}; give {wanted}")
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; give {wanted}")
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows, lines = [], []
        try:
            first = file.readline()
            while first.count('"') % 2 and (more := file.readline()):  # a name that has a line break
                first += more
            unquoted = re.sub(r'"[^"]*"', "", first)
            delimiter = max("\t;,", key=unquoted.count)  # where there are as many, commas are part of names
            its_lines = itertools.chain(io.StringIO(first, newline=""), file)
            reader = csv.reader(its_lines, delimiter=delimiter, skipinitialspace=True)
            names = [name.strip() for name in next(reader, [])]
            for row in reader:
                if row or len(names) == 1:  # then a blank line is an empty cell
                    rows.append([cell.strip() for cell in row] or [""])
                    lines.append(reader.line_num)
            while len(names) == 1 and rows and rows[-1] == [""]:
                rows.pop()
                lines.pop()
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not text in UTF-8") from None
    _check(path, names, rows, lines)
    if len(rows) < least_rows:
        at_least = f"at least {least_rows} row{'s' if least_rows > 1 else ''}"
        raise ValueError(f"{path} must have {at_least} below the names of its columns; got {len(rows)}")
    return Table(str(path), names, rows, lines)


def _check(path, names, rows, lines):
    """Raise ValueError where names or rows make no table."""
    if not names:
        raise ValueError(f"{path} is empty; its first line must name the columns")
    if any(name == "" or _number_or_none(name) is not None for name in names):
        row_numbers = "; a first column of row numbers is what pandas leaves out with index=False"
        raise ValueError(
            f"the first line of {path} must name all columns, by anything but a number; "
            f"got {', '.join(map(repr, names))}{row_numbers if names[0] == '' else ''}"
        )
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"columns of {path} must have different names; two are {name!r}")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            raise ValueError(f"{path}, line {line}: got {len(row)} cells; the first line names {len(names)}")


def inputs_of(table, names, categorical):
    """What columns are: text where no cell is a number, or where they are among `categorical`.

    Raises
    ------
    ValueError
        If a cell is empty, one of a column of numbers is none, texts of a column stand for missing values or
        are numbers in another spelling, or almost every row has a text of its own.
    """
    columns = []
    for name in names:
        cells = table.cells(name)
        text = _is_text(cells)
        if text and name not in categorical:
            _refuse_near_numbers(table, name, "--categories takes a column for text, --ignore leaves it out")
        if not (text or name in categorical):
            as_numbers(table, name, "; --categories takes a column for text, --ignore leaves it out")
            columns.append(Column(name))
            continue
        _refuse_empty(table, name)
        categories = _sorted(set(cells))
        if len(categories) > max(2, len(cells) // 2):
            raise ValueError(
                f"{table.path}: {name!r} has {len(categories)} different texts in {len(cells)} rows, too "
                "many to learn from; leave the column out with --ignore"
            )
        columns.append(Column(name, categories))
    numbers = len(table) * sum(column.width for column in columns)
    if numbers > MOST_NUMBERS:
        widest = max(columns, key=lambda column: column.width)
        raise ValueError(
            f"{table.path}: {len(table):,} rows are {numbers:,} numbers, with a column for each text, and at "
            f"most {MOST_NUMBERS:,} fit; {widest.name!r} has {widest.width:,} texts: leave it out with "
            "--ignore"
        )
    return tuple(columns)


def _refuse_near_numbers(table, name, cure):
    """Raise ValueError where a cell of text stands for a missing value, or most are nearly numbers."""
    cells = table.cells(name)
    _refuse_missing(table, name, f"; {cure}")
    near = [at for at, cell in enumerate(cells) if _NEARLY_A_NUMBER.fullmatch(cell.translate(_PLAIN))]
    if 2 * len(near) > len(cells):
        raise ValueError(
            f"{table.path}, line {table.lines[near[0]]}: {name!r} is {cells[near[0]]!r}, nearly a number; "
            f"numbers are spelt as 1234.5; {cure}"
        )


def _refuse_missing(table, name, cure=""):
    """Raise ValueError where a cell is what other programs write for none."""
    for cell, line in zip(table.cells(name), table.lines, strict=True):
        if cell.lower() in MISSING:
            raise ValueError(
                f"{table.path}, line {line}: {name!r} is {cell!r}, which stands for a missing value; fill "
                f"such cells or leave out their rows{cure}"
            )


def _sorted(texts):
    """Texts in their order, or that of the numbers they are."""
    numeric = all(_number_or_none(text) is not None for text in texts) and "nan" not in map(str.lower, texts)
    return tuple(sorted(texts, key=(lambda text: (_exact(text), text)) if numeric else str))


def _number_or_none(text):
    """What a cell says, if that is a number; the underscores of Python's own spelling are text."""
    try:
        return float(text) if "_" not in text else None
    except ValueError:
        return None


def _is_text(cells):
    """Whether cells are text: one is no number, and none is a finite one or empty."""
    values = list(map(_number_or_none, cells))
    finite = any(value is not None and math.isfinite(value) for value in values)
    return None in values and not finite and "" not in cells


def _exact(text):
    """What a cell of a number says, exactly: an int where float64 has none of its own for each."""
    number = float(text)
    if math.isfinite(number) and abs(number) >= 2**53:
        with contextlib.suppress(ValueError):
            return int(text)
    return number


def _refuse_empty(table, name):
    for cell, line in zip(table.cells(name), table.lines, strict=True):
        if cell == "":
            raise ValueError(
                f"{table.path}, line {line}: {name!r} is empty; fill such cells or leave out their rows"
            )


def as_numbers(table, name, hint=""):
    """A column's numbers, float64 (n,); `hint` is what the sentence for a text ends with.

    Raises
    ------
    ValueError
        If a cell is no number, not finite, or too large.
    """
    _refuse_empty(table, name)
    _refuse_missing(table, name)
    cells = table.cells(name)
    numbers = np.empty(len(cells))
    for i, (cell, line) in enumerate(zip(cells, table.lines, strict=True)):
        number, place = _number_or_none(cell), f"{table.path}, line {line}: {name!r}"
        if number is None:
            raise ValueError(f"{place} must be a number; got {cell!r}{hint}")
        if not np.isfinite(number):
            raise ValueError(f"{place} must be finite; got {cell!r}")
        if abs(number) > LARGEST:
            raise ValueError(f"{place} must be at most {LARGEST:g} in size; got {cell!r}")
        numbers[i] = number
    return numbers


def as_target(table, name, task):
    """The target: (y, names of the classes or None).

    Parameters
    ----------
    table : Table
    name : str
    task : {"auto", "classification", "regression"}
        Auto takes text, and few different integers, for classes; text beside numbers for a mistake.

    Returns
    -------
    y : array (n,)
        Numbers, or places among the classes.
    classes : tuple of str or None

    Raises
    ------
    ValueError
        If a cell is no target, or the classes are too few or too many.
    """
    cells, path = table.cells(name), table.path
    for cell, line in zip(cells, table.lines, strict=True):
        if cell == "":
            raise ValueError(f"{path}, line {line}: the target {name!r} is empty; leave out such rows")
    values = [_exact(cell) if _number_or_none(cell) is not None else None for cell in cells]
    numeric = None not in values
    if task == "auto" and _is_text(cells):
        _refuse_near_numbers(table, name, "--task classification takes all cells for classes")
    elif task == "auto" and not numeric:
        _refuse_missing(table, name, "; --task classification takes all cells for classes")
        at = values.index(None)
        raise ValueError(
            f"{path}, line {table.lines[at]}: the target {name!r} is {cells[at]!r}, and in others a number; "
            "--task classification takes all of them for classes"
        )
    if task == "auto":
        few = len(set(values)) <= MOST_CLASSES
        few_integers = numeric and few and all(float(value).is_integer() for value in values)
        task = "classification" if few_integers or not numeric else "regression"
    if task == "regression":
        y = as_numbers(table, name)
        if (y == y[0]).all():
            raise ValueError(
                f"{path}: the target {name!r} is {cells[0]} in all rows; there is nothing to learn"
            )
        return y, None
    if numeric:
        cells = _spelt_alike(cells)
    classes = _sorted(set(cells))
    if len(classes) < 2:
        raise ValueError(
            f"{path}: the target {name!r} must have at least 2 classes; all rows have {cells[0]!r}"
        )
    if len(classes) > len(cells) // 2:
        raise ValueError(
            f"{path}: the target {name!r} has {len(classes)} classes in {len(cells)} rows; "
            f"a class needs more rows to learn from"
        )
    number = {text: i for i, text in enumerate(classes)}
    return np.array([number[cell] for cell in cells]), classes


def _spelt_alike(cells):
    """Cells of numbers, equal ones in one spelling, the shortest: 1, 1.0 and 01 are one class."""
    numbers, spelling = {cell: _exact(cell) for cell in cells}, {}
    for cell, number in numbers.items():
        if number != number:
            numbers[cell] = "nan"  # which equals itself
    for cell in sorted(numbers, key=lambda text: (len(text), text)):
        spelling.setdefault(numbers[cell], cell)
    return [spelling[numbers[cell]] for cell in cells]


def predictions_as_csv(description, predicted):
    """The lines of a CSV file: the target of each row, and of a class its probability.

    Parameters
    ----------
    description : Description
    predicted : array (n, n_outputs)

    Yields
    ------
    list of str
        The cells of a line, their names first.
    """
    if description.classes is None:
        yield [description.target]
        for value in predicted[:, 0]:
            yield [f"{value:.10g}"]
        return
    yield [description.target, "probability"]
    for row in predicted:
        best = int(row.argmax())
        yield [description.classes[best], f"{row[best]:.6g}"]
