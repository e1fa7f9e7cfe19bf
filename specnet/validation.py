"""How documents are checked: Pydantic does the work, its findings are told in JSON's words.

A `Document` is a frozen, strict Pydantic model whose refusals say what was expected, what was there and what to do.
Raised inside another validation its findings nest under the outer path; at the boundary they become one SpecError.
"""

from __future__ import annotations

import ast
import inspect
import math
import os
import stat
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from itertools import islice, pairwise
from pathlib import Path as FilePath
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from specnet.errors import Problem, SpecError, SpecnetError, path_text
from specnet.jsontext import MAX_BYTES, MAX_INTEGER, MAX_PROBLEMS, Finding, Path, parse_json
from specnet.layer import SMALLEST
from specnet.paths import user_path
from specnet.wording import describe, encodable, fault, mismatch, nearest

JsonSchema = dict[str, Any]

MAX_HINTS = 100
"""Unknown keys of one object that get a suggestion; looking for near names takes time."""


def expecting(phrase: str) -> WrapValidator:
    """Annotate a field so that whatever its type refuses is told as `expected <phrase>, got …`."""

    def validate(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise mismatch(phrase, value) from None

    return WrapValidator(validate)


def as_tuple(value: Any) -> Any:
    """Let a JSON array stand for a tuple, which strict validation would refuse."""
    return tuple(value) if isinstance(value, list) else value


def _as_read(value: Any) -> Any:
    """Bring a number given in Python to what JSON would have made of it."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_INTEGER:
        raise mismatch("an integer within ±(2^53 - 1)", value)
    return value + 0.0 if isinstance(value, float) else value


Real = Annotated[float, Field(allow_inf_nan=False), expecting("a number"), BeforeValidator(_as_read)]
PositiveReal = Annotated[
    float, Field(gt=0, allow_inf_nan=False), expecting("a positive number"), BeforeValidator(_as_read)
]
NonNegativeReal = Annotated[
    float, Field(ge=0, allow_inf_nan=False), expecting("a number of at least 0"), BeforeValidator(_as_read)
]
Share = Annotated[float, Field(ge=0, lt=1), expecting("a number in [0, 1)"), BeforeValidator(_as_read)]
PositiveInteger = Annotated[int, Field(gt=0, le=2**53 - 1), expecting("a positive integer")]
Seed = Annotated[int, Field(ge=0, le=2**53 - 1), expecting("an integer from 0 to 2^53 - 1")]
Flag = Annotated[bool, expecting("true or false")]
Text = Annotated[str, expecting("a string"), AfterValidator(encodable)]


def _some_entries(value: Any) -> Any:
    # Not min_length: Pydantic counts valid entries, and would call an array of wrong ones too short.
    if isinstance(value, (list, tuple)) and not value:
        raise fault("expected at least 1 entry, got an empty array", "too_short")
    return as_tuple(value)


def _reals(value: Any, what: str = "number", least: float = -math.inf) -> Any:
    """Take a number, or an array of numbers as a tuple; says which entry is none."""

    def fits(entry: Any) -> bool:
        real = isinstance(entry, (int, float)) and not isinstance(entry, bool)
        return real and least <= entry and abs(entry) <= sys.float_info.max

    if not isinstance(value, (list, tuple)):
        if not fits(value):
            raise mismatch(f"a {what}, or an array of them", value)
        return float(_as_read(value))
    details = [
        InitErrorDetails(type=mismatch(f"a {what}", entry), loc=(index,), input=entry)
        for index, entry in enumerate(_some_entries(value))
        if not fits(entry)
    ]
    if details:
        raise ValidationError.from_exception_data("numbers", details)
    return tuple(float(_as_read(entry)) for entry in value)


def _positive_reals(value: Any) -> Any:
    return _reals(value, "positive number", SMALLEST)


def _feature_schema(number: JsonSchema) -> JsonSchema:
    return {"anyOf": [number, {"type": "array", "minItems": 1, "items": number}]}


Feature = Annotated[
    float | tuple[float, ...],
    BeforeValidator(_reals),
    WithJsonSchema(_feature_schema({"type": "number"})),
]
PositiveFeature = Annotated[
    float | tuple[float, ...],
    BeforeValidator(_positive_reals),
    WithJsonSchema(_feature_schema({"type": "number", "minimum": SMALLEST})),
]

Shape = Annotated[
    tuple[PositiveInteger, ...],
    BeforeValidator(_some_entries),
    WithJsonSchema({"type": "array", "items": {"type": "integer", "exclusiveMinimum": 0}, "minItems": 1}),
]


_TOO_DEEP = Problem("", "is nested too deeply to be looked at from so deep in a program's calls", "too_deep")


class Document(BaseModel):
    """Base of everything that JSON can say: frozen, strict, no unknown keys, faults in words."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        defer_build=True,
        serialize_by_alias=True,
        validate_by_name=False,
        allow_inf_nan=False,
    )

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise without_places(findings(error), data) from None
        except RecursionError:
            raise SpecError([_TOO_DEEP]) from None

    # Pydantic asks this before it decides whether nested validation has to go through __init__: it need not.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="wrap")
    @classmethod
    def _in_words(cls, data: Any, handler: Callable[[Any], Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            told = [_told(cls, e, hint=index < MAX_HINTS) for index, e in enumerate(error.errors(include_url=False))]
            raise ValidationError.from_exception_data(cls.__name__, told) from None

    @classmethod
    def __get_pydantic_json_schema__(cls, core: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Describe the keys by the strings that stand below the fields; read here, as at import it would cost time."""
        schema = handler(core)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in _field_texts(cls).items():
            key = cls.model_fields[name].alias or name
            if key in properties:
                properties[key].setdefault("description", text)
        return schema

    @classmethod
    def nested(cls, value: Any) -> Self:
        """Validate `value` inside another validation: raises Pydantic's ValidationError, whose paths nest."""
        return super().model_validate(value)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Validate a Python value; raises SpecError."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise without_places(findings(error), obj) from None
        except RecursionError:
            raise SpecError([_TOO_DEEP]) from None

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **_options: Any) -> Self:
        """Validate JSON text, read strictly; raises SpecError with line and column."""
        return cls.from_text(json_data if isinstance(json_data, str) else bytes(json_data))

    @classmethod
    def from_text(cls, text: str | bytes, source: str | None = None) -> Self:
        """Validate JSON text; `source` is the name that errors begin with. Raises SpecError."""
        document = parse_json(text, source)
        document.require_text()
        try:
            made = cls.nested(document.value)
        except ValidationError as error:
            raise document.error(findings(error)) from None
        except RecursionError:
            raise SpecError([_TOO_DEEP], source) from None
        if document.findings:
            raise document.error()
        return made

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Validate the document in a file. Raises SpecError, also when the file cannot be read."""
        return cls.from_text(read_document(path), os.fspath(path))


def _field_texts(cls: type[BaseModel]) -> dict[str, str]:
    """Give the string below each field in the source of the class and its bases, where there is source."""
    texts: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not issubclass(owner, Document) or owner is Document:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        except (OSError, TypeError, SyntaxError):
            continue
        body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
        for field, below in pairwise(body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = inspect.cleandoc(text)
    return {name: text for name, text in texts.items() if name in cls.model_fields}


def read_document(path: str | os.PathLike[str]) -> bytes:
    """Read a document's bytes; a file that cannot be read is a SpecError that says why."""
    if not isinstance(path, (str, os.PathLike)):
        msg = f"expected the path of a document, got {describe(path)}; ModelSpec(...) takes a document itself"
        raise SpecnetError(msg)
    try:
        data = _read_regular(user_path(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot be read: {reason}"
        raise SpecError([Problem("", message, "unreadable")], os.fspath(path)) from None
    for signature, what in ((b"\x89HDF", "an HDF5 file, a checkpoint perhaps"), (b"PK\3\4", "a zip or .npz file")):
        if data.startswith(signature):
            raise SpecError([Problem("", f"expected a JSON document, this is {what}", "not_json")], os.fspath(path))
    return data


def _read_regular(path: FilePath) -> bytes:
    # Not blocking: a FIFO would wait for a writer for ever.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(22, "Is a directory" if path.is_dir() else "It is not a regular file")
        return file.read(MAX_BYTES + 1)


def findings(error: ValidationError) -> list[Finding]:
    """Give Pydantic's errors, already in our words, as findings."""
    return [
        Finding(tuple(e["loc"]), str(e["msg"]), e["type"], bool(e.get("ctx", {}).get("at_key")))
        for e in error.errors(include_url=False)
    ]


def without_places(found: Iterable[Finding], value: Any) -> SpecError:
    """Make one SpecError about a value given in Python, its problems in the value's own order."""
    some = list(islice(found, 10 * MAX_PROBLEMS))  # ranking takes time
    ordered = sorted(some, key=lambda finding: _rank(finding.path, value))
    return SpecError([Problem(path_text(f.path), f.message, f.code) for f in ordered[:MAX_PROBLEMS]])


def _rank(path: Path, value: Any) -> list[int]:
    """Say where in a value a path stands: the positions of its keys, what is missing last."""
    rank = []
    for key in path:
        if isinstance(value, Mapping):
            rank.append(list(value).index(key) if key in value else len(value))
            value = value.get(key)
        else:
            rank.append(key if isinstance(key, int) else 0)
            value = (
                value[key] if isinstance(value, (list, tuple)) and isinstance(key, int) and key < len(value) else None
            )
    return rank


def _told(cls: type[BaseModel], error: Any, *, hint: bool) -> InitErrorDetails:
    """Say one of Pydantic's errors in our words; those said already pass unchanged."""
    context = error.get("ctx", {})
    if "message" in context:
        told = PydanticCustomError(error["type"], "{message}", context)
    else:
        told = _translate(cls, error, context, hint=hint)
    return InitErrorDetails(type=told, loc=error["loc"], input=error["input"])


_PHRASES = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a string",
    "tuple_type": "an array",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def _translate(cls: type[BaseModel], error: Any, context: Mapping[str, Any], *, hint: bool) -> PydanticCustomError:
    kind, value = error["type"], error["input"]
    last = error["loc"][-1] if error["loc"] else ""
    if kind == "extra_forbidden":
        names = [field.alias or name for name, field in cls.model_fields.items()]
        return fault(f"unknown key{nearest(str(last), names) if hint else ''}", "unknown_key", at_key=True)
    if kind == "missing":
        return fault("expected this key, it is missing; add it", "missing")
    if kind == "literal_error":
        names = [name.strip("'") for name in str(context["expected"]).replace(" or ", ", ").split(", ")]
        listed = " or ".join(f'"{name}"' for name in names)
        near = nearest(value, names) if isinstance(value, str) else ""
        near = near if near.startswith("; did") else ""
        return fault(f"expected {listed}, got {describe(value)}{near}", "wrong_value")
    if kind == "string_pattern_mismatch":
        return fault(f"expected a name of the form {context['pattern']}, got {describe(value)}", "wrong_value")
    if kind in _PHRASES:
        return mismatch(_PHRASES[kind], value, "wrong_type")
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return fault(f"{message[:1].lower()}{message[1:]}, got {describe(value)}", kind)
