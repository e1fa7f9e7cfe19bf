"""Test tables: missing values, blank lines, names that look equal, types, and the files of other programs."""

import unicodedata

import numpy as np
import pytest

import specnet
from specnet import DataError
from specnet.data.files import read_rows
from specnet.prediction.predict import predict_file
from specnet.training.runs.scaffold import scaffold

pl = pytest.importorskip("polars", reason="polars is not installed")


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a .csv file and reads it."""

    def write_and_read(text, *names, **options):
        path = tmp_path / "d.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_rows(path, *names, **options)

    return write_and_read


def test_an_empty_row_is_a_row(read):
    assert read("a,b\n0,0\n,\n4,0\n", fill=1)[0].tolist() == [[0, 0], [1, 1], [4, 0]]
    assert read("a,b\n0,0\n\n4,0\n", fill=1)[0].tolist() == [[0, 0], [1, 1], [4, 0]]
    assert read("a\n0\n\n4\n", fill=1)[0].tolist() == [[0], [1], [4]]
    with pytest.raises(DataError, match=r'row 2, column "a": a value is missing'):
        read("a,b\n0,0\n,\n4,0\n")
    with pytest.raises(DataError, match=r'row 4, column "a": expected a number, got the string "x"'):
        read("a,b\n0,0\n\n4,0\nx,1\n", fill=1)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_blank_lines_at_the_end_are_left_out_with_a_note(read, end, separator):
    rows = end.join(["a,b", "1,2", ","]).replace(",", separator)
    for blank, told in (("", None), ("\n", None), ("\n\n", "a blank line"), ("\n \n\n", "2 blank lines")):
        notes = []
        text = rows + blank.replace("\n", end)
        assert read(text, fill=7, note=notes.append)[0].tolist() == [[1, 2], [7, 7]]
        assert (told is None) == (notes == [])
        assert all(f"d.csv: {told} at the end left out" in note for note in notes)
    assert read("a\n1\n\n\n", fill=7, note=notes.append)[0].tolist() == [[1]]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_quoted_markers_are_values(read, separator):
    text = 'a,y\n1,"NA"\n2,b\n3,"say ""NA"" twice"\n4,"x,""NA"",y"\n'.replace(",", separator)
    names = read(text, ["a"], "y")[1].tolist()
    assert read('a,y\n1," NA "\n', ["a"], "y")[1].tolist() == ["NA"]
    assert read('"NA","x"\n1,2\n', ["NA"], "x")[3] == ("NA",)
    with pytest.raises(DataError, match="a value is missing"):
        read('a,y\n1,""\n', ["a"], "y")
    assert names == ["NA", "b", 'say "NA" twice', f'x{separator}"NA"{separator}y']


@pytest.mark.parametrize("marker", ["", "NA", "N/A", "null", "NaN", "?", " NA "])
def test_markers_of_missing_values_without_quotes(read, marker):
    with pytest.raises(DataError, match=r'row 2, column "y": a value is missing .* in quotes or set missing'):
        read(f"a,y\n1,b\n2,{marker}\n", ["a"], "y")
    assert read(f"a,y\n1,b\n{marker},c\n", ["a"], "y", fill=-1)[0].tolist() == [[1], [-1]]


def test_an_entry_declares_the_markers_of_missing_values(tmp_path, read):
    assert read("a,y\n1,NA\n-,b\n", ["a"], "y", fill=0, missing=["-"])[1].tolist() == ["NA", "b"]
    document = {
        "model": {"input_shape": [1], "layers": [{"type": "affine", "units": 2}]},
        "data": {
            "train": {"path": "d.csv", "targets": "y", "missing": ["-"], "fill": 0},
            "validation": {"path": "v.csv"},
        },
        "training": {"loss": "softmax_cross_entropy", "epochs": 1},
    }
    (tmp_path / "v.csv").write_text("a,y\n-,NA\n")
    trained = specnet.train(document)
    assert trained.model.spec.labels == ("NA", "b")
    with pytest.raises(specnet.SpecError, match=r"data\.train\.missing"):
        specnet.train({**document, "data": {"train": {"path": "d.csv", "missing": "NA"}}}, out="other")


def test_columns_that_look_equal_are_the_same(read):
    decomposed = unicodedata.normalize("NFD", "größe")
    text = f"{decomposed}, b ,y\n 1 , 2,3 \n"
    assert read(text, ["größe", "b"], "y")[0].tolist() == [[1, 2]]
    assert read("größe,b,y\n1,2,3\n", [decomposed, " b"], "y")[3] == ("größe", "b")
    assert read("größe,y\n,3\n", None, "y", fill={decomposed: 5})[0].tolist() == [[5]]
    for header in (f"größe,{decomposed}", "a,a ", "a,a"):
        with pytest.raises(DataError, match="appears twice in the header"):
            read(f"{header}\n1,2\n")
    assert read("a,a_duplicated_1\n1,2\n")[3] == ("a", "a_duplicated_1")


def test_a_model_finds_its_columns_whatever_their_code_points(tmp_path):
    rows = "".join(f"{index},{index % 3},{'np'[index % 2]}\n" for index in range(40))
    (tmp_path / "d.csv").write_text("größe,b,y\n" + rows)
    specnet.train(scaffold("d.csv", "y").experiment_path, out="r", overrides={"training.epochs": "1"})
    model = specnet.load("r/last.h5")
    other = unicodedata.normalize("NFD", "größe")
    (tmp_path / "n.csv").write_text(f"y , b,{other}\nn,1,2\n")
    assert len(predict_file(model, "n.csv").outputs) == 1
    assert len(predict_file(model, "n.csv", [other, "b"]).outputs) == 1


def test_blanks_booleans_and_large_numbers(read):
    assert read("a,b\n 1,TRUE\n2 , false\n")[0].tolist() == [[1, 1], [2, 0]]
    assert read("a,y\n1,true\n2,False\n", ["a"], "y")[1].tolist() == [1, 0]
    assert read("a,y\n1,true\n2,False\n", ["a"], "y", text_targets=True)[1].tolist() == ["true", "False"]
    big = 2**63
    assert read(f"a,y\n{big},{big}\n1,{big + 1}\n", ["a"], "y")[1].tolist() == [float(big)] * 2
    assert read("a,y\n1,9007199254740993\n", ["a"], "y")[1].tolist() == [9007199254740993]
    with pytest.raises(DataError, match="expected a finite number, got inf"):
        read("a,y\n1e999,1\n", ["a"], "y")


@pytest.mark.parametrize(
    ("values", "pattern"),
    [
        (pl.Series([b"1", b"2"]), "expected numbers, got Binary"),
        (pl.Series(["u", "v"], dtype=pl.Categorical), 'row 1, column "a": expected a number, got the string "u"'),
        (pl.Series(["u", "v"], dtype=pl.Enum(["u", "v"])), 'row 1, column "a": expected a number'),
        (pl.Series([None, None], dtype=pl.Null), "a value is missing"),
        (pl.Series([[1.0], []]), 'row 2, column "a": expected a list of at least one step, got an empty one'),
        (pl.Series([{"b": 1}, {"b": 2}]), "expected numbers, got Struct"),
        (pl.Series([1, 2]).cast(pl.Datetime), "expected numbers, got Datetime"),
        (pl.Series([1, 2]).cast(pl.Duration), "expected numbers, got Duration"),
    ],
)
def test_columns_of_other_types_are_rejected(tmp_path, values, pattern):
    pl.DataFrame({"a": values, "b": [1, 2]}).write_parquet("d.parquet")
    with pytest.raises(DataError, match=pattern):
        read_rows(tmp_path / "d.parquet", None, "b")
    with pytest.raises(DataError):
        specnet.train(
            {
                "model": {"input_shape": [1], "layers": [{"type": "affine", "units": 2}]},
                "data": {"train": {"path": "d.parquet", "targets": "a"}},
                "training": {"loss": "mean_squared_error", "epochs": 1},
            }
        )


@pytest.mark.parametrize(
    "values",
    [
        pl.Series(["1", "2"], dtype=pl.Categorical),
        pl.Series(["1", "2"], dtype=pl.Enum(["2", "1"])),
        pl.Series(["1", " 2"]).str.strip_chars(),
        pl.Series([1, 2], dtype=pl.Int128),
        pl.Series([1, 2], dtype=pl.UInt8),
        pl.Series([1, 2]).cast(pl.Decimal(10, 2)),
    ],
)
def test_columns_of_numbers_in_other_types_are_read(tmp_path, values):
    pl.DataFrame({"a": values, "b": values}).write_parquet("d.parquet")
    x, y = read_rows(tmp_path / "d.parquet", None, "b")[:2]
    assert x.tolist() == [[1], [2]]
    assert y.tolist() == [1, 2]


def table(separator, decimal=".", header=("a", "b", "y")):
    lines = [(f"{index}{decimal}5", f"{index * index % 7}{decimal}25", "cd"[index % 2]) for index in range(30)]
    return "\n".join(separator.join(line) for line in [header, *lines]) + "\n"


@pytest.mark.parametrize(
    ("data", "pattern"),
    [
        (table(";", ",").encode(), r'column "a": its numbers have commas \("0,5"\); write decimal points'),
        (table("|").encode(), "columns are separated by vertical bars"),
        (table(" ").encode(), "columns are separated by spaces"),
        (table(",").encode("utf-16"), "UTF-16"),
        (table(",").encode("utf-16-le"), "UTF-16"),
        (table(",").replace("\n", "\r").encode(), "lines end in a carriage return alone"),
        (table(",", header=("a", "é", "y")).encode("latin-1"), "UTF-8"),
        (b"", "no rows"),
        ("a,\u00e9".encode(), "no rows below the header"),
    ],
)
def test_the_tables_of_other_programs_are_named(tmp_path, data, pattern):
    (tmp_path / "d.csv").write_bytes(data)
    with pytest.raises(DataError, match=pattern):
        scaffold("d.csv", "y")
    with pytest.raises(DataError, match=pattern):
        read_rows(tmp_path / "d.csv", None, "y")


def test_a_target_with_decimal_commas_is_named(tmp_path):
    (tmp_path / "d.csv").write_text("a;y\n" + "".join(f"{index};{index},5\n" for index in range(30)))
    with pytest.raises(DataError, match='column "y": its numbers have commas'):
        scaffold("d.csv", "y")


def test_leading_zeros_are_part_of_a_name(tmp_path, read):
    assert read("a,y\n1,01\n2,1\n", ["a"], "y")[1].tolist() == ["01", "1"]
    (tmp_path / "d.csv").write_text("a,b,y\n" + "".join(f"{i},{i % 7},{['007', '7'][i % 2]}\n" for i in range(30)))
    scaffolded = scaffold("d.csv", "y")
    assert scaffolded.model["labels"] == ["007", "7"]
    assert specnet.train(scaffolded.experiment_path, overrides={"training.epochs": "1"}).finished
    single = {"input_shape": [1], "layers": [{"type": "affine", "units": 1}]}
    data = {"train": {"path": "d.csv", "inputs": ["a"], "targets": "y"}}
    training = {"loss": "mean_squared_error", "epochs": 1}
    assert specnet.train({"model": single, "data": data, "training": training}, out="number").finished


def test_thousands_separators_are_named(tmp_path):
    rows = "".join(f'"{index + 1},{index:03d}",{"cd"[index % 2]}\n' for index in range(30))
    (tmp_path / "d.csv").write_text("a,y\n" + rows)
    with pytest.raises(DataError, match=r'commas \("1,000"\); write decimal points, and no thousands separators'):
        scaffold("d.csv", "y")


def test_a_table_of_blank_lines_has_no_rows(read):
    for text in ("a,b\n\n\n", "a\n\n \n", "\n\n"):
        with pytest.raises(DataError, match=r"no rows|cannot be read"):
            read(text, fill=1)


def test_columns_that_count_the_rows_are_left_out(tmp_path):
    rows = [f"{index + 1},{29 - index},{index % 7},{index},{'np'[index % 2]}" for index in range(30)]
    (tmp_path / "d.csv").write_text("\n".join([",ID,a,day,y", *rows]) + "\n")
    scaffolded = scaffold("d.csv", "y")
    assert scaffolded.experiment["data"]["train"]["inputs"] == ["a", "day"]
    assert "left out, because they only count the rows: the column without a name, ID" in scaffolded.notes
    assert specnet.train(scaffolded.experiment_path, overrides={"training.epochs": "1"}).finished


def test_init_notes_rare_and_nearly_equal_classes(tmp_path):
    names = ["Cat", "cat", "dog"] * 12 + ["rare"]
    (tmp_path / "d.csv").write_text("a,b,y\n" + "".join(f"{i},{i % 5},{name}\n" for i, name in enumerate(names)))
    notes = scaffold("d.csv", "y").notes
    assert any('"Cat", "cat" differ only in case' in note for note in notes)
    assert "classes of fewer than 5 rows in the file: rare (1)" in notes
    with pytest.raises(DataError, match=r'there is no column "z"; valid: a, b, y'):
        scaffold("d.csv", "z")


def test_a_small_parquet_file_of_a_huge_table_is_rejected(tmp_path):
    column = pl.repeat(1.0, 30_000_000, eager=True)
    pl.DataFrame({"a": column, "b": column}).write_parquet("d.parquet", compression="zstd")
    assert (tmp_path / "d.parquet").stat().st_size < 2**20
    with pytest.raises(DataError, match="would unpack to 480,000,000 bytes"):
        read_rows(tmp_path / "d.parquet", None, "b")


def test_ordinary_tables_are_not_taken_for_bombs(tmp_path):
    flags = pl.Series([True, False]).sample(1_000_000, with_replacement=True)
    pl.DataFrame({f"f{index}": flags for index in range(11)}).write_parquet("d.parquet")
    assert read_rows(tmp_path / "d.parquet", ["f0"], "f1")[0].shape == (1_000_000, 1)


def test_init_fills_not_a_number_like_missing_values(tmp_path):
    values = [float("nan") if index == 3 else float(index % 7) for index in range(30)]
    pl.DataFrame({"a": values, "b": range(30), "y": ["u", "v"] * 15}).write_parquet("d.parquet")
    scaffolded = scaffold("d.parquet", "y")
    assert scaffolded.experiment["data"]["train"]["fill"]["a"] == 3
    assert specnet.train(scaffolded.experiment_path, overrides={"training.epochs": "1"}).finished


def test_a_target_that_is_no_number_is_named(tmp_path):
    (tmp_path / "d.csv").write_text("a,y\n1,2\n2,1_000\n")
    document = {
        "model": {"input_shape": [1], "layers": [{"type": "affine", "units": 1}]},
        "data": {"train": {"path": "d.csv"}},
        "training": {"loss": "mean_squared_error", "epochs": 1},
    }
    with pytest.raises(
        DataError, match=r'targets: row 2: mean_squared_error expects numbers, got text, the string "1_000"'
    ):
        specnet.train(document)


def test_every_row_of_a_table_has_a_prediction(tmp_path):
    rows = "".join(f"{'' if i % 9 == 0 else i % 2 * 4},{i % 5},{'np'[i % 2]}\n" for i in range(60))
    (tmp_path / "d.csv").write_text("a,b,y\n" + rows)
    specnet.train(scaffold("d.csv", "y").experiment_path, out="r", overrides={"training.epochs": "1"})
    (tmp_path / "new.csv").write_text("a,b\n0,0\n,\n4,0\n0,1\n")
    outputs = predict_file(specnet.load("r/last.h5"), "new.csv").outputs
    assert len(outputs) == 4
    assert not np.array_equal(outputs[0], outputs[2])
