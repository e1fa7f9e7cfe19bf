"""The base class of JSON documents. Pydantic validates them, and its errors are translated into JSON's terms.

A `Document` is a frozen, strict Pydantic model. Its errors state what was expected, what was found and the remedy.
An error raised inside another validation gets that validation's path as a prefix. Public methods raise one SpecError.
"""

from __future__ import annotations

import ast
import inspect
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from itertools import islice, pairwise
from typing import Any, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, WrapValidator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from specnet.document.json_places import Finding
from specnet.document.json_text import MAX_BYTES, MAX_PROBLEMS, JsonText, parse_json
from specnet.document.messages import describe, mismatch, problem, suggestion
from specnet.document.python_values import plain
from specnet.errors import KeyPath, Problem, SpecError, SpecnetError, path_text
from specnet.files.regular import open_regular

JsonSchema = dict[str, Any]


MAX_HINTS = 100
"""Number of unknown keys per object that get a suggestion; the search for similar names is slow."""


_TOO_DEEP = Problem("", "is nested too deeply for the space left on the call stack", "too_deep")


class Document(BaseModel):
    """Base class of JSON documents: frozen and strict, rejects unknown keys, raises SpecError."""

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
            super().__init__(**_plain(data))
        except ValidationError as error:
            raise without_places(findings(error), data) from None
        except RecursionError:
            raise SpecError([_TOO_DEEP]) from None

    # Pydantic reads this flag: nested validation may skip __init__.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        for field in cls.model_fields.values():
            # an annotation of another package than Pydantic, such as a list of layers, reads its arrays itself
            is_plain = all(type(part).__module__.startswith(("pydantic", "annotated_types")) for part in field.metadata)
            if is_plain and _holds_array(field.annotation) and _LIMITED not in field.metadata:
                field.metadata.append(_LIMITED)

    @model_validator(mode="wrap")
    @classmethod
    def _translate_errors(cls, data: Any, handler: Callable[[Any], Self]) -> Self:
        try:
            return handler(_without_excess(cls, data))
        except ValidationError as error:
            errors = error.errors(include_url=False)
            translated = [_translate(cls, e, hint=index < MAX_HINTS) for index, e in enumerate(errors)]
            raise ValidationError.from_exception_data(cls.__name__, translated) from None

    @classmethod
    def __get_pydantic_json_schema__(cls, core: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Return the schema with the docstrings of the fields as descriptions; read only here, to keep imports fast."""
        schema = handler(core)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in _field_texts(cls).items():
            key = cls.model_fields[name].alias or name
            if key in properties:
                properties[key].setdefault("description", text)
        return schema

    @classmethod
    def nested(cls, value: Any, context: object = None) -> Self:
        """Validate `value` inside another validation. Raises Pydantic's ValidationError, so that paths nest."""
        return super().model_validate(value, context=context)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Validate a Python value; numpy's numbers and arrays count as Python's. Raises SpecError."""
        try:
            return super().model_validate(_plain(obj), **options)
        except ValidationError as error:
            raise without_places(findings(error), obj) from None
        except RecursionError:
            raise SpecError([_TOO_DEEP]) from None

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **_options: Any) -> Self:
        """Validate JSON text, which is read strictly. Raises SpecError with line and column."""
        return cls.from_text(json_data if isinstance(json_data, str) else bytes(json_data))

    @classmethod
    def from_text(cls, text: str | bytes, source: str | None = None) -> Self:
        """Validate JSON text. `source` is the file name at the start of errors. Raises SpecError."""
        document = parse_json(text, source)
        del text  # frees the bytes of a file, which nothing below needs
        return cls.from_parsed(document)

    @classmethod
    def from_parsed(cls, document: JsonText) -> Self:
        """Validate parsed JSON text, whose value is used up. Raises SpecError."""
        document.require_text()
        validated, found = None, []
        try:
            validated = cls.nested(document.value)
        except ValidationError as error:
            found = findings(error)
        except RecursionError:
            raise SpecError([_TOO_DEEP], document.source) from None
        document.value = None  # the search for errors and for their places needs the memory
        if document.has_errors:
            validated = None
        if validated is not None and not document.findings:
            return validated
        raise document.error(found)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file and validate its document. Raises SpecError, also if the file cannot be read."""
        return cls.from_text(read_document(path), os.fspath(path))


def _plain(value: Any) -> Any:
    """Return a plain copy of a value from Python; one that nests too deeply as it is, for the validators to locate."""
    try:
        return plain(value)
    except RecursionError:
        return value


def _holds_array(annotation: Any) -> bool:
    """Return whether a field's type is an array of any length, or includes one."""
    arguments = get_args(annotation)
    is_array = get_origin(annotation) is list or (get_origin(annotation) is tuple and Ellipsis in arguments)
    return is_array or any(map(_holds_array, arguments))


def _limit_errors(value: Any, handler: Callable[[Any], Any]) -> Any:
    """Validate an array; of a long one with too many errors to show, only the entries up to the last one shown."""
    if isinstance(value, (list, tuple)) and len(value) > MAX_PROBLEMS:
        count = 0
        for end in range(MAX_PROBLEMS, len(value) + MAX_PROBLEMS, MAX_PROBLEMS):
            try:
                handler(value[end - MAX_PROBLEMS : end])
            except ValidationError as error:
                count += error.error_count()
            if count >= MAX_PROBLEMS:
                handler(value[:end])  # raises their errors
    return handler(value)


_LIMITED = WrapValidator(_limit_errors)


def _without_excess(cls: type[BaseModel], data: Any) -> Any:
    """Return an object without the unknown keys beyond the first MAX_PROBLEMS, whose errors would not be shown."""
    if not isinstance(data, Mapping) or len(data) <= MAX_PROBLEMS:
        return data
    known = {field.alias or name for name, field in cls.model_fields.items()}
    shown = known.union(islice((key for key in data if key not in known), MAX_PROBLEMS))
    return {key: value for key, value in data.items() if key in shown}


def _field_texts(cls: type[BaseModel]) -> dict[str, str]:
    """Return the docstring of each field, from the source of the class and its bases; none if there is no source."""
    texts: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not issubclass(owner, Document) or owner is Document:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        except (OSError, TypeError, SyntaxError):
            continue
        body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
        for statement, following in pairwise(body):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = inspect.cleandoc(text)
    return {name: text for name, text in texts.items() if name in cls.model_fields}


def read_document(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a document file. Raises SpecError with the reason if it cannot be read."""
    if not isinstance(path, (str, os.PathLike)):
        msg = f"expected the path of a document, got {describe(path)}; pass a document itself to ModelSpec(...)"
        raise SpecnetError(msg)
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1) or b""  # some files of /proc have nothing yet, and say None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot be read: {reason}"
        raise SpecError([Problem("", message, "unreadable")], os.fspath(path)) from None
    for signature, what in ((b"\x89HDF", "an HDF5 file, possibly a checkpoint"), (b"PK\3\4", "a zip or .npz file")):
        if data.startswith(signature):
            raise SpecError([Problem("", f"expected a JSON document, got {what}", "not_json")], os.fspath(path))
    return data


def findings(error: ValidationError) -> list[Finding]:
    """Return Pydantic's errors, which are already translated, as findings."""
    return [
        Finding(tuple(e["loc"]), str(e["msg"]), e["type"], bool(e.get("ctx", {}).get("at_key")))
        for e in error.errors(include_url=False)
    ]


def without_places(found: Iterable[Finding], value: Any) -> SpecError:
    """Return one SpecError for a Python value, without line and column; its problems in the order of the value."""
    limited = list(islice(found, 10 * MAX_PROBLEMS))  # sorting is slow
    orders: dict[int, dict[Any, int]] = {}
    ordered = sorted(limited, key=lambda finding: _sort_key(finding.path, value, orders))
    return SpecError([Problem(path_text(f.path), f.message, f.code) for f in ordered[:MAX_PROBLEMS]])


def _sort_key(path: KeyPath, value: Any, orders: dict[int, dict[Any, int]]) -> list[int]:
    """Return the positions of a path's keys in a value; missing keys come last. `orders` caches those of objects."""
    positions = []
    for key in path:
        if isinstance(value, Mapping):
            if id(value) not in orders:
                orders[id(value)] = {entry: index for index, entry in enumerate(value)}
            positions.append(orders[id(value)].get(key, len(value)))
            value = value.get(key)
        else:
            positions.append(key if isinstance(key, int) else 0)
            value = (
                value[key] if isinstance(value, (list, tuple)) and isinstance(key, int) and key < len(value) else None
            )
    return positions


def _translate(cls: type[BaseModel], error: Any, *, hint: bool) -> InitErrorDetails:
    """Translate one of Pydantic's errors into JSON's terms; an already translated one is unchanged."""
    context = error.get("ctx", {})
    if "message" in context:
        translated = PydanticCustomError(error["type"], "{message}", context)
    else:
        translated = _translated_message(cls, error, context, hint=hint)
    return InitErrorDetails(type=translated, loc=error["loc"], input=error["input"])


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


def _translated_message(
    cls: type[BaseModel], error: Any, context: Mapping[str, Any], *, hint: bool
) -> PydanticCustomError:
    kind, value = error["type"], error["input"]
    last = error["loc"][-1] if error["loc"] else ""
    if kind == "extra_forbidden":
        names = [field.alias or name for name, field in cls.model_fields.items()]
        return problem(f"unknown key{suggestion(str(last), names) if hint else ''}", "unknown_key", at_key=True)
    if kind == "missing":
        return problem("expected this key, it is missing; add it", "missing")
    if kind == "literal_error":
        names = [name.strip("'") for name in str(context["expected"]).replace(" or ", ", ").split(", ")]
        expected = " or ".join(f'"{name}"' for name in names)
        remedy = suggestion(value, names) if isinstance(value, str) else ""
        remedy = remedy if remedy.startswith("; did") else ""
        return problem(f"expected {expected}, got {describe(value)}{remedy}", "wrong_value")
    if kind == "string_pattern_mismatch":
        return problem(f"expected a name of the form {context['pattern']}, got {describe(value)}", "wrong_value")
    if kind in _PHRASES:
        return mismatch(_PHRASES[kind], value, "wrong_type")
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return problem(f"{message[:1].lower()}{message[1:]}, got {describe(value)}", kind)
