"""The experiment document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from specnet.data.spec import DataSpec
from specnet.document.base import Document
from specnet.document.messages import mismatch
from specnet.document.migrations import check_format, format_of, migrated
from specnet.errors import SpecnetError
from specnet.fields import Text, expecting
from specnet.spec.composite_spec import PLACEHOLDER
from specnet.spec.model_spec import ModelSpec
from specnet.training.spec.training_spec import TrainingSpec

FAMILY = "specnet-experiment"


EXPERIMENT_FORMAT = format_of(FAMILY)


RunName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=100),
    expecting("a folder name of letters, digits, ., _ and - that begins with a letter, a digit or _"),
]


def _model_or_path(value: Any) -> Any:
    if isinstance(value, (str, ModelSpec)):
        return value
    if isinstance(value, Mapping):
        return ModelSpec.nested(value)
    raise mismatch("a path or a model document", value, "wrong_type")


class ExperimentSpec(Document):
    """An experiment document with all defaults filled in. `load_experiment` reads a file and puts its model inline."""

    model_config = ConfigDict(
        title="specnet experiment",
        json_schema_extra={"description": "A training run: the model, the data and how to train."},
    )

    schema_: Text = Field(default="", alias="$schema")
    """Location of this document's JSON Schema, for editors."""
    format: Annotated[
        str,
        BeforeValidator(lambda value: check_format(value, FAMILY)),
        WithJsonSchema({"const": EXPERIMENT_FORMAT, "type": "string"}),
    ] = EXPERIMENT_FORMAT
    """Kind and version of the document."""
    name: RunName = "experiment"
    """Name of the experiment; its runs are written to the folder runs/<name>."""
    model: Annotated[
        ModelSpec | str,
        BeforeValidator(_model_or_path),
        WithJsonSchema({"anyOf": [{"type": "string"}, {PLACEHOLDER: "model"}]}),
    ]
    """The model document, or the path of its file relative to this document."""
    data: DataSpec
    """The training and validation rows."""
    training: TrainingSpec
    """How to train."""

    @model_validator(mode="before")
    @classmethod
    def _migrate(cls, data: Any) -> Any:
        return migrated(data, FAMILY)

    @field_validator("training")
    @classmethod
    def _fill_in_keep_best(cls, training: TrainingSpec, info: ValidationInfo) -> TrainingSpec:
        """Fill in `checkpoint.keep_best`: what early stopping monitors, or validation_loss."""
        data = info.data.get("data")
        return training if data is None else training.keeping_best(validates=data.validation is not None)

    @model_serializer(mode="wrap")
    def _omit_empty_schema(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {key: value for key, value in written.items() if value or key not in ("$schema", "schema_")}

    @property
    def built_model(self) -> ModelSpec:
        """The inline model document. Raises SpecnetError if it is still a path."""
        if isinstance(self.model, str):
            msg = "the experiment names its model by path; read it with load_experiment(path)"
            raise SpecnetError(msg)
        return self.model

    def to_json(self) -> str:
        """Return the normalized document as indented JSON that ends in a newline."""
        return self.model_dump_json(indent=2) + "\n"
