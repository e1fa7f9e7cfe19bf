"""No line of an error's text is long, whatever the names and paths in it, and however the error is made or printed."""

import pickle
import traceback

import pytest

import specnet
from specnet.data.raw import NotThereError
from specnet.document.messages import MAX_COMPARED, describe, suggestion
from specnet.errors import MAX_LINE, Problem, SpecnetError, bounded, path_text, printable
from specnet.training.finite_check import NotFiniteError
from tests.commands import run_specnet

LONG = "begin" + "x" * 100_000 + "end"
PLAIN = [
    specnet.SpecnetError,
    specnet.ShapeError,
    specnet.DataError,
    NotThereError,
    specnet.CheckpointError,
    specnet.CheckpointCorruptError,
    specnet.CheckpointMismatchError,
    specnet.CheckpointUnsupportedError,
    NotFiniteError,
]


def longest(text):
    return max(map(len, text.split("\n")))


def test_all_subclasses_are_tested():
    def subclasses(cls):
        return {cls}.union(*map(subclasses, cls.__subclasses__()))

    named = {cls for cls in subclasses(SpecnetError) if cls.__module__.startswith("specnet.")}
    assert named == {*PLAIN, specnet.SpecError}


@pytest.mark.parametrize("kind", PLAIN)
def test_a_long_line_is_cut_in_the_middle(kind):
    error = kind(f"first line\n{LONG}\nlast line")
    for again in (error, pickle.loads(pickle.dumps(error))):
        first, long, last = str(again).split("\n")
        assert (first, last) == ("first line", "last line")
        assert len(long) == MAX_LINE
        assert long.startswith("beginxxx")
        assert "x … x" in long
        assert long.endswith("xxxend")
        assert again.args == (str(error),)
    assert longest("".join(traceback.format_exception(error))) <= MAX_LINE + 100


def test_a_line_of_the_greatest_length_is_whole():
    assert str(specnet.DataError("x" * MAX_LINE)) == "x" * MAX_LINE
    assert len(str(specnet.DataError("x" * (MAX_LINE + 1)))) == MAX_LINE


def test_a_line_is_short_also_when_its_control_characters_are_escaped():
    for text in ("\x1b" * 1999, "\U000e0001" * 300, "\x1b" * 201, "\x1b" * 600):
        error = specnet.DataError(text)
        assert len(printable(str(error))) <= MAX_LINE
        assert bounded(str(error)) == str(error)
    assert str(specnet.DataError("\x1b" * 100)) == "\x1b" * 100


def test_the_lines_of_a_document_s_errors_are_short():
    problems = [Problem(LONG, LONG, "code", 3, 4), Problem("a", "b", "code"), Problem("", f"{LONG}\nnext", "code")]
    error = specnet.SpecError(problems, source=f"{LONG}.json")
    for again in (error, pickle.loads(pickle.dumps(error))):
        assert len(again.lines()) == 3
        assert str(again) == "\n".join(again.lines())
        assert longest(str(again)) == MAX_LINE
        assert all(len(line) <= MAX_LINE for line in again.args[0].split("\n"))
        assert again.problems == tuple(problems)
    assert max(longest(str(problem)) for problem in problems) == MAX_LINE
    assert error.lines()[1].endswith("json: a: b")


def test_a_path_is_short_and_ordinary_ones_are_whole():
    assert path_text(("layers", 1, "units")) == "layers[1].units"
    assert path_text(("", "a")) == "a"
    assert len(path_text((LONG,))) == MAX_LINE
    assert path_text((LONG, "last")).endswith("end.last")
    assert len(path_text(tuple("k" * 50_000 for _ in range(200)))) == MAX_LINE


def test_a_command_prints_no_long_line(tmp_path):
    control = r"\u001b" * 9000
    layer = f'{{"type":"{LONG}","{control}":1}}'
    (tmp_path / "m.json").write_text(f'{{"input_shape":[4],"layers":[{layer}],"{"k" * 100_000}":[1]}}')
    code, out, err = run_specnet("validate", "m.json", cwd=tmp_path)
    assert code == 1
    assert out == ""
    assert "unknown key" in err
    assert longest(err) <= MAX_LINE
    code, out, _ = run_specnet("validate", "--json", "m.json", cwd=tmp_path)
    assert code == 1
    assert longest(out) <= MAX_LINE + 100


def test_a_long_name_is_described_and_compared_quickly():
    million = "relu" * 4_000_000
    assert describe(million) == f'the string "{million[:39]}…"'
    assert describe("é\n" + "x" * 50) == f'the string "\\u00e9\\n{"x" * 31}…"'
    assert suggestion(million, ["relu", "gelu"]) == "; valid: relu, gelu"
    assert suggestion("rellu", ["relu", "r" * 10_000_000]) == '; did you mean "relu"?'
    assert suggestion("abc" * MAX_COMPARED, ["", "abc"]) == "; valid: , abc"
    assert len(suggestion("abc", (f"{index:09}" for index in range(10**9)))) < 200_000
