"""The key `tokenizer` of a model document: how text becomes the integers that the model takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, GetJsonSchemaHandler, ValidationError, field_validator
from pydantic_core import InitErrorDetails, core_schema

from specnet.arrays.tokens import vocabulary_fault
from specnet.document.base import Document, JsonSchema
from specnet.document.messages import describe, mismatch, problem
from specnet.fields import Text, as_tuple

KINDS = ("characters", "words")


class TokenizerSpec(Document):
    """Divides text into tokens. Index 0 is padding, 1 the end of a line, 2 an unknown token; the tokens follow."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "characters"}, {"type": "words"}]})

    type: Literal["characters", "words"]
    """Tokens are characters, or words (runs of letters, digits and underscores) and single marks."""
    vocabulary: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] = ()
    """The tokens, in the order of their indices. Default: training takes those of the training text, the most frequent
    first."""

    @field_validator("vocabulary")
    @classmethod
    def _check_tokens(cls, vocabulary: tuple[str, ...], info: Any) -> tuple[str, ...]:
        fault = vocabulary_fault(info.data["type"], vocabulary) if "type" in info.data else None
        if fault is not None:
            index, message = fault
            error = problem(f"{message}, got {describe(vocabulary[index])}", "wrong_value")
            detail = InitErrorDetails(type=error, loc=(index,), input=vocabulary[index])
            raise ValidationError.from_exception_data("vocabulary", [detail])
        return vocabulary

    def with_vocabulary(self, vocabulary: tuple[str, ...]) -> Self:
        """Return the tokenizer with these tokens, which it must have made itself."""
        return self.model_copy(update={"vocabulary": vocabulary})


def _parse(value: Any) -> Any:
    if value is None or isinstance(value, TokenizerSpec):
        return value
    if isinstance(value, str) and value in KINDS:
        return TokenizerSpec.nested({"type": value})
    if isinstance(value, dict):
        return TokenizerSpec.nested(value)
    raise mismatch('"characters", "words" or an object with a type', value, "wrong_type")


class _AllowKind:
    """Adds the names of the kinds to what the field's JSON Schema accepts."""

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        return {"anyOf": [{"enum": list(KINDS), "type": "string"}, *handler(schema)["anyOf"]]}


Tokenizer = Annotated[TokenizerSpec | None, BeforeValidator(_parse), _AllowKind()]
