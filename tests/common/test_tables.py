"""Tables with texts that a spreadsheet would run."""

import pandas as pd
import pytest

from common.errors import InputError
from common.tables import read_csv, write_csv

FORMULAS = ["=cmd|' /C calc'!A0", "@SUM(A1)", "+cmd", "-cmd|x", "\t=1+1", "\r=1", "'=already", "''-quoted", "=1", "-=x"]
HARMLESS = ["P001", "", "-", "+0.01", "-12", "-0.5 - 0.2", "'quoted'", "a=b", "it's", "<script>alert(1)</script>"]


def written(tmp_path, texts):
    table = pd.DataFrame({"case_id": texts, "value": range(len(texts))})
    write_csv(table, tmp_path / "table.csv")
    return table, read_csv(tmp_path / "table.csv", dtype={"case_id": str}, keep_default_na=False)


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_a_spreadsheet_would_run_is_written_as_text_and_read_back_whole(tmp_path, text):
    table, read = written(tmp_path, ["P001", text])
    cell = pd.read_csv(tmp_path / "table.csv", dtype=str, keep_default_na=False)["case_id"][1]
    assert cell == f"'{text}"
    assert read["case_id"].tolist() == table["case_id"].tolist()


def test_every_other_table_is_written_as_pandas_does(tmp_path):
    table, read = written(tmp_path, HARMLESS)
    table["difference"] = -1.5
    table["group"] = pd.Categorical(HARMLESS)
    write_csv(table, tmp_path / "table.csv")
    table.to_csv(tmp_path / "plain.csv", index=False)
    assert (tmp_path / "table.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()
    assert read["case_id"].tolist() == HARMLESS


def test_a_table_separated_by_semicolons_is_called_so(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("case_id;value\nP001;1\n")
    with pytest.raises(InputError, match=r"table.csv: is separated by semicolons; save it with commas"):
        read_csv(path)


def test_a_table_without_rows(tmp_path):
    table, read = written(tmp_path, [])
    assert list(read.columns) == list(table.columns)
    assert len(read) == 0
