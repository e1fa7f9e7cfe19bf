"""The base of everything that JSON can say. Pydantic validates; its errors are reworded in JSON's terms.

A `Document` is a frozen, strict Pydantic model whose errors say what was expected, what was found and what to do.
Raised inside another validation they nest under the outer path; at the boundary they become one SpecError.
"""

from __future__ import annotations

import ast
import inspect
import os
import stat
import textwrap
from collections.abc import Callable, Iterable, Mapping
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from specnet.document.json_places import Finding
from specnet.document.json_text import MAX_BYTES, MAX_PROBLEMS, parse_json
from specnet.document.messages import describe, mismatch, problem, suggestion
from specnet.errors import KeyPath, Problem, SpecError, SpecnetError, path_text
from specnet.files.paths import user_path

JsonSchema = dict[str, Any]


MAX_HINTS = 100
"""Unknown keys of one object that get a suggestion; looking for near names takes time."""


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
    def nested(cls, value: Any, context: object = None) -> Self:
        """Validate `value` inside another validation: raises Pydantic's ValidationError, whose paths nest."""
        return super().model_validate(value, context=context)

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


def _read_regular(path: Path) -> bytes:
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


def _rank(path: KeyPath, value: Any) -> list[int]:
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
        return problem(f"unknown key{suggestion(str(last), names) if hint else ''}", "unknown_key", at_key=True)
    if kind == "missing":
        return problem("expected this key, it is missing; add it", "missing")
    if kind == "literal_error":
        names = [name.strip("'") for name in str(context["expected"]).replace(" or ", ", ").split(", ")]
        listed = " or ".join(f'"{name}"' for name in names)
        near = suggestion(value, names) if isinstance(value, str) else ""
        near = near if near.startswith("; did") else ""
        return problem(f"expected {listed}, got {describe(value)}{near}", "wrong_value")
    if kind == "string_pattern_mismatch":
        return problem(f"expected a name of the form {context['pattern']}, got {describe(value)}", "wrong_value")
    if kind in _PHRASES:
        return mismatch(_PHRASES[kind], value, "wrong_type")
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return problem(f"{message[:1].lower()}{message[1:]}, got {describe(value)}", kind)
