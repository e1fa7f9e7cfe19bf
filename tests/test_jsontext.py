"""Test strict JSON parsing: rejected texts, positions of errors, and the canonical form."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import specnet
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
