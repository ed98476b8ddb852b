"""Tables of a data set: words stay words, and nothing is left behind."""

from pathlib import Path

import pytest

from knots.errors import KnotsError
from knots.suites.listings import list_split
from knots.suites.tables import check_columns, open_table


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t")])
def test_only_empty_cells_are_nothing(ending: str, separator: str, tmp_path: Path):
    rows = [("words", "number"), ("n/a", "1"), ("None", "2"), ("", "3")]
    (tmp_path / "data").mkdir()
    lines = "".join(separator.join(row) + "\n" for row in rows)
    (tmp_path / "data" / f"test.{ending}").write_text(lines)
    listing = list_split({"path": str(tmp_path / "data")}, "test", tmp_path / "cache")
    with open_table(listing, "test", tmp_path / "cache") as table:
        assert table["words"][:] == ["n/a", "None", None]
        assert table["number"][:] == [1, 2, 3]
        check_columns(table, ["words", "number"], "data set 'x'")
        with pytest.raises(KnotsError, match="unknown column of data set 'x': 'wrods'; did you mean 'words'"):
            check_columns(table, ["words", "wrods"], "data set 'x'")
    assert list((tmp_path / "cache").iterdir()) == []
