"""Test strict JSON parsing: rejected texts, positions of errors, and the canonical form."""

import json
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import specnet
from specnet.document import json_places
from specnet.document.canonical import canonical_json, sha256_of
from specnet.document.json_text import MAX_BYTES, parse_json


def problem(text):
    """Return the first problem of a text as (line, column, message)."""
    with pytest.raises(specnet.SpecError) as caught:
        parsed = parse_json(text)
        raise parsed.error()
    first = caught.value.problems[0]
    return first.line, first.column, first.message


@pytest.mark.parametrize(
    ("text", "line", "column", "message_part"),
    [
        ('{"a": 1,}', 1, 8, "trailing comma"),
        ("[1, 2,\n  3,]", 2, 4, "trailing comma"),
        ('{"a": 1} x', 1, 10, "end of the text"),
        ('{"a": // no\n1}', 1, 7, "comment"),
        ("{'a': 1}", 1, 2, "double quote"),
        ('{"a" 1}', 1, 6, "colon"),
        ('{"a": 1 "b": 2}', 1, 9, "comma"),
        ('{"a": "x', 1, 7, "never closed"),
        ('{"a": "x\ny"}', 1, 9, "control character"),
        ('{"a": }', 1, 7, "expected a value"),
        ('{"a": tru}', 1, 7, "expected a value"),
        ("", 1, 1, "empty"),
        ("  \n ", 1, 1, "empty"),
        ('{"a": 01}', 1, 8, ""),
        ('{"a": NaN}', 1, 7, "NaN"),
        ('{"a": [1, -Infinity]}', 1, 11, "Infinity"),
        ('{"a": 1e999}', 1, 7, "double"),
        ('{"a": 9007199254740992}', 1, 7, "2^53"),
        ('{"a": -9007199254740992}', 1, 7, "2^53"),
        ('{"a": "\\ud800"}', 1, 7, "surrogate"),
        ('{"\\udc00": 1}', 1, 2, "surrogate"),
        ('{"a": 1,\n "b": 2, "a": 3}', 2, 10, "second time, first at 1:2"),
        (b'\xef\xbb\xbf{"a": 1}', 1, 1, "byte order mark"),
        ("\ufeff{}", 1, 1, "byte order mark"),
        ("[" + "0," * 2**20 + "0]", 1, 1, "values"),
        (b'{"a":\n "\xff"}', 2, 3, "0xff"),
    ],
)
def test_an_invalid_text_is_rejected_with_line_and_column(text, line, column, message_part):
    error = problem(text)
    assert error[:2] == (line, column), error
    assert message_part in error[2]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 200_000,
        '{"a": ' + "1" * 1_000_000 + "}",
        "[" * 300 + "]" * 300,
        "-" * 100_000,
        "[" + "[]," * 300 + '\\"' * 100_000,
    ],
)
def test_excessive_texts_are_rejected_quickly(text):
    began = time.monotonic()
    problem(text)
    assert time.monotonic() - began < 5


def test_a_duplicate_key_is_reported_once():
    parsed = parse_json('{"a": [{"b": 1}], "a": [{"b": 2}], "c": {"b": 1}}')
    assert [f.path for f in parsed.findings] == [("a",)]


def test_a_text_above_the_size_limit_is_rejected():
    assert "bytes" in problem(b" " * (MAX_BYTES + 1))[2]


def test_all_problems_of_a_text_are_reported():
    parsed = parse_json('{"a": NaN, "b": [1e999, {"a": 1, "a": 2}], "c": "\\ud800"}')
    assert [(f.code, f.path) for f in parsed.findings] == [
        ("number_range", ("a",)),
        ("number_range", ("b", 0)),
        ("duplicate_key", ("b", 1, "a")),
        ("surrogate", ("c",)),
    ]


def test_unusual_but_valid_json_is_accepted():
    value = parse_json('{"a": [-0.0, -0, 1E2, 9007199254740991, "\\ud83d\\ude00 é"], "": null}').value
    assert value == {"a": [0.0, 0, 100.0, 9007199254740991, "😀 é"], "": None}
    assert str(value["a"][0]) == "0.0"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(json_values, st.integers(0, 3))
def test_json_written_by_the_standard_library_is_read_back(value, indent):
    text = json.dumps(value, ensure_ascii=False, indent=indent or None)
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    parsed = parse_json(text)
    assert parsed.value == value
    assert parsed.findings == []


@given(json_values)
def test_the_canonical_form_round_trips(value):
    text = canonical_json(value)
    # 4.2e16 is written as 42000000000000000, which JavaScript reads as the same number.
    reread = json.loads(text, parse_int=lambda digits: int(digits) if abs(int(digits)) < 2**53 else float(digits))
    assert reread == value
    assert canonical_json(reread) == text


@given(st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \n\\ud', max_size=60))
def test_texts_are_accepted_and_rejected_as_by_the_standard_library(text):
    try:
        json.loads(text)
    except ValueError:
        with pytest.raises(specnet.SpecError):
            parse_json(text)
    else:
        parse_json(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-05, "0.00001"),
        (1e-06, "0.000001"),
        (1e-07, "1e-7"),
        (1.5e-07, "1.5e-7"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (123456.789, "123456.789"),
        (-0.0, "0"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (333333333.33333329, "333333333.3333333"),
        (4.50, "4.5"),
        (2e-3, "0.002"),
        (1.0, "1"),
        (True, "true"),
        (None, "null"),
        ('€$\x0f\nA\'B"\\"/', '"€$\\u000f\\nA\'B\\"\\\\\\"/"'),
        ({"€": 1, "\r": 2, "1": 3, "😀": 4, "\ufb33": 5}, '{"\\r":2,"1":3,"€":1,"😀":4,"\ufb33":5}'),
        ([1, [], {}, "x"], '[1,[],{},"x"]'),
    ],
)
def test_the_canonical_form_follows_rfc_8785(value, text):
    assert canonical_json(value).decode() == text


def test_infinity_has_no_canonical_form():
    with pytest.raises(ValueError, match="canonical"):
        canonical_json(float("inf"))
    assert len(sha256_of({})) == 64


MEASURE = """
import json, os, resource, sys, time
import specnet, specnet.cli.app, specnet.checkpoint.write, specnet.training.experiment
from specnet.checkpoint import format as layout, write

specnet.ModelSpec, specnet.load
folder, entry, cases = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
os.chdir(folder)

def in_fork(call):
    pid = os.fork()
    if pid == 0:
        call()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, "the process failed"

def write_text(name, body):
    text = eval(f"({body})")
    if entry == "experiment":
        text = '{"model":%s,"data":{"train":{"path":"a.csv"}},"training":{"loss":"huber"}}' % text
    with open("doc.json", "w", encoding="utf-8") as file:
        file.write(text)
    if entry == "load":
        model = specnet.build(specnet.ModelSpec(input_shape=(4,), layers=[{"type": "relu"}]))
        write._datasets = lambda model: iter([layout.dataset(layout.MODEL_SPEC, text)])
        specnet.save("doc.h5", model)

def read():
    if entry == "text":
        specnet.ModelSpec.from_text(open("doc.json", "rb").read())
    elif entry == "experiment":
        specnet.training.experiment.load_experiment("doc.json")
    elif entry == "load":
        specnet.load("doc.h5")
    else:
        sys.argv = ["specnet", "validate", "doc.json"]
        specnet.cli.main()

def measured(name):
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    before, began = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize(), time.process_time()
    try:
        read()
        message = ""
    except (specnet.SpecnetError, SystemExit) as error:
        message = str(error)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(json.dumps([name, os.path.getsize("doc.json"), peak, seconds, message[:200]]), flush=True)

for name, body in cases.items():
    in_fork(lambda: write_text(name, body))
    in_fork(lambda: measured(name))
"""
HEAD = """'{"input_shape":[4],"layers":[{"type":"relu"}],'"""
WRONG = """'{"input_shape":[4],"layers":[{"type":"rellu"}],"metadata":{"a":'"""
QUICK = {
    "a long string": WRONG + """ + '"' + "x" * 15_900_000 + '"}}'""",
    "escapes": WRONG + """ + '"' + r"\\ud83d\\ude00" * 1_300_000 + '"}}'""",
    "240 levels around a million numbers": WRONG + """ + "[" * 240 + "1," * 999_000 + "1" + "]" * 240 + "}}" """,
    "16 million line breaks": WRONG + """ + "[" + chr(10) * 15_900_000 + "1]}}" """,
    "a million times one key": HEAD + """ + '"k":1,' * 1_000_000 + '"l":1}'""",
    "many unknown keys": HEAD + """ + ",".join('"k%d":1' % i for i in range(150_000)) + "}" """,
    "many wrong labels": HEAD + """ + '"labels":[' + "1," * 500_000 + "1]}" """,
    "a long unknown key": HEAD + """ + '"' + "k" * 15_900_000 + '":1}'""",
    "a long layer type": """'{"input_shape":[4],"layers":[{"type":"' + "r" * 15_900_000 + '"}]}'""",
}
SLOW = {
    "a million wrong labels": HEAD + """ + '"labels":[' + "1," * 1_000_000 + "1]}" """,
    "one wrong label at the end": HEAD + """ + '"labels":["a"' + ',"b"' * 400_000 + ",1]}" """,
    "a million wrong numbers": HEAD + """ + '"metadata":{"a":[' + "1e999," * 1_000_000 + "1]}}" """,
    "half a million unknown keys": HEAD
    + """ + ",".join('"key_%06d_%06d":1' % (i, i) for i in range(500_000)) + "}" """,
    "a million lone surrogates": HEAD + """ + '"metadata":{"a":[' + r'"\\ud800",' * 1_000_000 + "1]}}" """,
    "a million wrong entries of a layer": """'{"input_shape":[4],"layers":[{"type":"standardize","mean":['
        + '"a",' * 1_000_000 + '"a"]}]}'""",
    "long keys above many faults": HEAD
    + """ + '"metadata":' + ('{"' + "k" * 45_000 + '":') * 200
        + "[" + "1e999," * 900_000 + "1]" + "}" * 201""",
    "a thousand layers with a thousand unknown keys": """'{"input_shape":[4],"layers":['
        + ",".join(['{"type":"relu",' + ",".join('"k%d":1' % i for i in range(990)) + "}"] * 1000) + "]}" """,
    "a string in four bytes per character": WRONG + """ + '"' + chr(0x1F600) * 4_000_000 + '"}}'""",
    "an unterminated string": WRONG + """ + '"' + r'\\"' * 7_900_000""",
    "a number of 16 MB": WRONG + """ + "1" * 15_900_000 + "}}" """,
    "valid, a long string": HEAD + """ + '"metadata":{"a":"' + "x" * 15_900_000 + '"}}'""",
    "valid, a million long numbers": HEAD + """ + '"metadata":{"a":[' + "0.1234567890123," * 1_000_000 + "1]}}" """,
}


def check_costs(python, folder, entry, cases):
    """Read each text in a process of its own; check the limits of memory and time, and return the messages."""
    command = [python, "-c", MEASURE, folder, entry, json.dumps(cases)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[")]
    assert [row[0] for row in rows] == list(cases)
    for name, size, peak, seconds, _ in rows:
        assert peak <= 6 * size + 64 * 2**20, f"{name}: {peak / 2**20:.0f} MiB for {size / 2**20:.1f} MiB of text"
        assert seconds <= 5, f"{name}: {seconds:.1f} s of CPU time"
    return {row[0]: row[4] for row in rows}


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process in /proc")


@linux
def test_a_large_faulty_text_takes_little_memory_and_time(python, tmp_path, full):
    cases = (
        QUICK if full else {name: QUICK[name] for name in ("a long string", "many wrong labels", "many unknown keys")}
    )
    messages = check_costs(python, tmp_path, "text", cases)
    assert "1:38: layers[0].type: unknown layer type" in messages["a long string"]
    assert "labels[0]: expected a string" in messages["many wrong labels"]


@linux
@pytest.mark.full
def test_a_large_text_takes_little_memory_and_time(python, tmp_path):
    messages = check_costs(python, tmp_path, "text", SLOW)
    assert "labels[400001]: expected a string" in messages["one wrong label at the end"]
    assert not messages["valid, a long string"]


@linux
@pytest.mark.full
@pytest.mark.parametrize("entry", ["experiment", "validate", "load"])
def test_no_reader_of_documents_takes_much_memory_or_time(entry, python, tmp_path):
    cases = {name: body for name, body in (QUICK | SLOW).items() if "untermin" not in name or entry != "load"}
    check_costs(python, tmp_path, entry, cases)


def test_of_many_errors_the_first_thousand_are_reported():
    layer = '{"input_shape":[4],"layers":[{"type":"relu"}],%s}'
    for text, last in [
        ('"labels":["a"' + ",1" * 2000 + "]", "labels[1000]"),
        (",".join(f'"key{index}":1' for index in range(2000)), "key999"),
        ('"metadata":{"a":[' + "1e999," * 2000 + "1]}", "metadata.a[999]"),
    ]:
        with pytest.raises(specnet.SpecError) as caught:
            specnet.ModelSpec.from_text(layer % text)
        assert len(caught.value.problems) == 1000
        assert caught.value.problems[-1].path == last


@given(st.text(alphabet="ab\n", max_size=40), st.integers(1, 4))
def test_the_line_and_column_of_an_offset_do_not_depend_on_the_size_of_blocks(text, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_places, "_BLOCK", size)
        lines = json_places.Lines(text)
        for offset in range(len(text) + 1):
            before = text[:offset].split("\n")
            assert lines.place(offset) == (len(before), len(before[-1]) + 1)


@given(json_values, st.integers(0, 2))
def test_every_value_of_a_text_is_located(value, indent):
    text = json.dumps(value, indent=indent or None)

    def paths(value, path):
        yield path, value
        for key, entry in (
            value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
        ):
            yield from paths(entry, (*path, key))

    expected = dict(paths(value, ()))
    places = json_places.locate(text, set(expected))
    for path, inner in expected.items():
        value_at, key_at = places[path]
        assert json.JSONDecoder().raw_decode(text, value_at)[0] == inner
        if path and isinstance(path[-1], str):
            assert json.JSONDecoder().raw_decode(text, key_at)[0] == path[-1]
    assert json_places.locate(text, {("missing", 1)}) == {("missing", 1): (places[()][0],) * 2}


def test_commas_in_text_are_no_values():
    text = '{"input_shape":[4],"layers":[{"type":"relu"}],"description":"%s"}'
    assert specnet.ModelSpec.from_text(text % (",:[{" * 600_000)).description.startswith(",:[{")
    with pytest.raises(specnet.SpecError, match="at most 1048576 values"):
        specnet.ModelSpec.from_text('{"a":[' + "1," * 2**20 + "1]}")
