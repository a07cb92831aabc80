import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from training.errors import TrainingError
from training.tables import Table, read_table


def written(folder: Path, text: str | bytes) -> str:
    path = folder / "trial.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_values_come_as_they_stand(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, 'a,b,c\n1,"x, y",0\n\n2.5,z,1\n'), ("a", "b"))
    assert table.numbers("a").tolist() == [1.0, 2.5]
    assert table.text("b") == ("x, y", "z")
    assert table.flags("c").tolist() == [False, True]
    assert table.lines == (2, 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "trial.csv: is empty"),
        ("a,b\n", "trial.csv: there are no rows"),
        ("a,x\n1,2\n", "line 1: no column b (there are a, x)"),
        ("a,b,a\n1,2,3\n", "line 1: the column a stands there twice"),
        ("a,b\n1,2\n1\n", "line 3: 1 fields, the header has 2"),
        ('a,b\n1,"2\n', "line 2: no CSV"),
        (b"a,b\n1,\xff\n", "line 2: is not UTF-8"),
        (gzip.compress(b"a,b\n" + b"1,2\n" * 50_000)[:-20], "cannot be unpacked after line"),
    ],
)
def test_a_file_that_is_not_one_is_named_with_the_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(TrainingError) as raised:
        read_table(written(tmp_path, text), ("a", "b"))
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("value", "read", "said"),
    [
        ("", lambda table: table.numbers("a"), "line 3, column a: is empty"),
        ("nan", lambda table: table.numbers("a"), "line 3, column a: is 'nan', not a number"),
        ("inf", lambda table: table.numbers("a"), "line 3, column a"),
        ("dear", lambda table: table.numbers("a"), "line 3, column a: is 'dear'"),
        ("-1", lambda table: table.numbers("a", least=0), "line 3, column a: is '-1', not a number from 0"),
        ("2", lambda table: table.flags("a"), "line 3, column a: is '2', not one of 0, 1"),
        ("", lambda table: table.text("a"), "line 3, column a: is empty"),
    ],
)
def test_a_value_that_is_not_one_is_named_with_line_and_column(
    tmp_path: Path, value: str, read: Callable[[Table], object], said: str
) -> None:
    table = read_table(written(tmp_path, f"a,b\n1,1\n{value},1\n"), ("a", "b"))
    with pytest.raises(TrainingError) as raised:
        read(table)
    assert said in str(raised.value)
