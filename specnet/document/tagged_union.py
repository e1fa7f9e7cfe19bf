"""Fields whose JSON is an object with a `type` that selects its class, or only a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from specnet.document.base import Document, JsonSchema
from specnet.document.messages import describe, mismatch, problem, suggestion
from specnet.errors import SpecnetError


class Tagged:
    """Annotation of a field whose JSON is an object with a `type` that selects its class.

    With `shorthand`, a name alone is also accepted. The names in `names_only` are accepted as strings and remain
    strings. `choices` is called at each validation, so that types registered later are valid too; `find` returns the
    class of one type, by default from `choices`. `what` names the kind of value in messages.
    """

    def __init__(
        self,
        what: str,
        choices: Callable[[], Mapping[str, type[Document]]],
        *,
        shorthand: bool = False,
        names_only: Sequence[str] = (),
        find: Callable[[str], type[Document] | None] | None = None,
    ) -> None:
        self.what = what
        self.choices = choices
        self.shorthand = shorthand
        self.names_only = tuple(names_only)
        self.find = find or (lambda name: self.choices().get(name))

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> JsonSchema:
        return self.json_schema()

    def validate(self, value: Any) -> Any:
        """Return the document (or the name, if it is in `names_only`) for a name, an object or a document."""
        if isinstance(value, str):
            if value in self.names_only:
                return value
            if self.shorthand and value in self.choices():
                return self.choices()[value].nested({"type": value})
        kind = self.resolve(value)
        return value if isinstance(value, Document) else kind.nested(dict(value))

    def resolve(self, value: Any) -> type[Document]:
        """Return the class for an object or a document. Raises PydanticCustomError or ValidationError."""
        if isinstance(value, str):
            raise self._name_error(value)
        if isinstance(value, Document):
            if self.find(getattr(value, "type", "")) is type(value):
                return type(value)
            raise mismatch(f"a {self.what}", value, "wrong_type")
        if not isinstance(value, Mapping):
            raise mismatch(f"an object with the {self.what}'s type", value, "wrong_type")
        if "type" not in value:
            known = ", ".join(self.choices())
            raise problem(f'expected the key "type" (one of {known}), it is missing; add it', "missing")
        name = value["type"]
        try:
            kind = self.find(name) if isinstance(name, str) else None
        except SpecnetError as error:
            raise problem(str(error), "plugin") from None
        if kind is None:
            raise self._unknown_type(name)
        return kind

    def _name_error(self, name: str) -> PydanticCustomError:
        """Return the error for a string that is not accepted in place of an object."""
        if name in self.choices():
            if not self.names_only:
                message = f'expected an object, got the string "{name}"; write {{"type": "{name}"}}'
            else:
                message = f'"{name}" needs more keys; write an object: {{"type": "{name}", …}}'
            return problem(message, "wrong_type")
        known = [*self.names_only, *self.choices()]
        message = f"unknown {self.what} {describe(name)[11:]}{suggestion(name, known)}"
        return problem(message, f"unknown_{self.what}")

    def _unknown_type(self, name: object) -> ValidationError:
        if isinstance(name, str):
            if name in self.names_only:
                message = f'expected this {self.what} as a name alone, got an object; write "{name}"'
                error = problem(message, "wrong_type")
            else:
                hint = suggestion(name, self.choices())
                error = problem(f"unknown {self.what} type {describe(name)[11:]}{hint}", f"unknown_{self.what}")
        else:
            error = mismatch("a string", name, "wrong_type")
        detail = InitErrorDetails(type=error, loc=("type",), input=name)
        return ValidationError.from_exception_data(self.what, [detail])

    def json_schema(self) -> JsonSchema:
        """Return a schema that lets an editor list the types and check the keys of the selected type."""
        branches: list[JsonSchema] = []
        for name, cls in self.choices().items():
            then = cls.model_json_schema()
            then["properties"].get("name", {}).pop("default", None)  # the real default depends on the type
            then["properties"]["type"] = {"const": name, "description": summary_line(cls)}
            branches.append({"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": then})
        entry: JsonSchema = {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"enum": list(self.choices())}},
            "allOf": branches,
        }
        names = self.names_only or (tuple(self.choices()) if self.shorthand else ())
        return {"anyOf": [{"enum": list(names)}, entry]} if names else entry


def summary_line(cls: type) -> str:
    """Return the first line of a class's docstring."""
    return (cls.__doc__ or "").strip().split("\n")[0]
