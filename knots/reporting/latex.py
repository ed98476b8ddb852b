"""A sheet as a LaTeX table, for documents that use the package booktabs."""

from __future__ import annotations

from collections.abc import Iterator

from knots.reporting.sheets import Sheet
from knots.reporting.wording import DASH, OURS, Line, Words, cell_notes, legend, lines

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_"},
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "×": r"$\times$",  # noqa: RUF001
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "<": r"$<$",
    ">": r"$>$",
    "λ": r"$\lambda$",
    "–": "--",  # noqa: RUF001
    "\n": " ",
}

WIDE = 10
"""The most columns that are set in letters of a readable size."""


def latex(sheet: Sheet) -> str:
    r"""A `table` environment; the document needs `\usepackage{booktabs}` and, for greyed gaps, `{xcolor}`."""
    names = 2 if sheet.compares else 1
    head = " & ".join([*[""] * names, *(_header(name) for name in sheet.columns)])
    groups = ["\n".join(text for line in row for text in _line(line, sheet)) for row in lines(sheet)]
    body = "\n\\addlinespace\n".join(groups) if sheet.compares else "\n".join(groups)
    size = r"\small" if len(sheet.columns) <= WIDE else r"\scriptsize"
    return (
        f"\\begin{{table}}\n\\centering{size}\\setlength{{\\tabcolsep}}{{3pt}}\n"
        f"\\caption{{{escaped(sheet.title)}}}\n\\label{{tab:{sheet.name}}}\n"
        f"\\begin{{tabular}}{{{'l' * names}{'r' * len(sheet.columns)}}}\n\\toprule\n"
        f"{head} \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n{_below(sheet)}\\end{{table}}\n"
    )


def _header(name: str) -> str:
    """In as few columns as its words allow."""
    words = [escaped(word) for word in name.split("_")]
    return words[0] if len(words) == 1 else "\\shortstack[r]{" + r" \\ ".join(words) + "}"


def escaped(words: str) -> str:
    """Text whose signs mean nothing to LaTeX."""
    return "".join(SPECIAL.get(sign, sign) for sign in words)


def _line(line: Line, sheet: Sheet) -> Iterator[str]:
    """The line, and the margins below it: beside the numbers they would make it wider than a page."""
    names = [escaped(line.row.label) if line.kind == OURS else "", *([line.kind] if sheet.compares else [])]
    if line.missing:
        yield _ended([*names, f"\\multicolumn{{{len(line.words)}}}{{l}}{{{escaped(line.missing)}}}"])
        return
    yield _ended([*names, *(_number(words) for words in line.words)])
    if any(words.margin is not None for words in line.words):
        yield _ended([*[""] * len(names), *(_margin(words) for words in line.words)])


def _ended(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _number(words: Words) -> str:
    signs = (*words.marks, *([str(words.note)] if words.note else []))
    marks = "".join(sign.replace("†", r"\dagger") for sign in signs)
    number = (
        "--" if words.number == DASH else escaped(words.number) if words.cell.text else f"${words.number}$"
    )
    shown = f"\\textcolor{{gray}}{{{number}}}" if words.faint else number
    return f"{shown}$^{{{marks}}}$" if marks else shown


def _margin(words: Words) -> str:
    return "" if words.margin is None else rf"{{\scriptsize $\pm {words.margin}$}}"


def _below(sheet: Sheet) -> str:
    said = [escaped(sign) for sign in legend(sheet)]
    said += [f"$^{{{number}}}$ {escaped(note)}" for number, note in enumerate(cell_notes(sheet), 1)]
    said += [escaped(note) for note in sheet.notes]
    if not said:
        return ""
    return (
        "\\par\\smallskip\n\\begin{minipage}{\\linewidth}\\footnotesize\n"
        + " \\\\\n".join(said)
        + "\n\\end{minipage}\n"
    )
