"""Conversion of a Keras Sequential config, the same in both file formats, to layers and a list of variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from specnet.arrays.parameters import ShapeTuple
from specnet.errors import CheckpointError
from specnet.interop.imported_model import Arrays, LayerNames, checked_inputs, shape_after, spec_of_layers, unsupported
from specnet.interop.keras.layers import READERS, Entry, Found, Unsupported, Variable, is_kerass
from specnet.interop.keras.sequence import SEQUENCE_READERS
from specnet.interop.keras.spatial import SPATIAL_READERS
from specnet.spec.model_spec import ModelSpec

_ALL_READERS = {**READERS, **SEQUENCE_READERS, **SPATIAL_READERS}


_REMEDY = "a file stores only their names, and specnet runs no code from a file; export the model to ONNX instead"


class KerasLayer(NamedTuple):
    """One layer with its variables in Keras's order; `inner` holds the layers of a nested Sequential.

    The variables' targets are full names, for example "block.hidden.weight", and "" for a variable that is dropped.
    """

    class_name: str
    name: str
    variables: tuple[Variable, ...] = ()
    inner: tuple[KerasLayer, ...] = ()

    def all_variables(self) -> list[Variable]:
        """Return the variables of this layer and its inner layers, the trained ones first, as in Keras."""
        variables = [*self.variables, *(v for layer in self.inner for v in layer.all_variables())]
        return sorted(variables, key=lambda variable: not variable.trained)


class KerasNetwork:
    """A Keras network read from its config: a document, the layers with their variables, and notes."""

    def __init__(self, file: str, config: Any) -> None:
        self.file = file
        self.fills: dict[str, float] = {}
        self.notes: list[str] = []
        self._problems: list[str] = []
        self._dtypes: set[str] = set()
        self._is_masked = False
        class_name, model_config, layers = _split_entry(file, config)
        if class_name != "Sequential":
            raise unsupported(file, f"expected a Sequential model, got a {class_name!r:.40} model; {_REMEDY}")
        self._shape = checked_inputs(file, self._input_shape(model_config, layers))
        self._entries, self.layers, _ = self._read_layers(layers, self._shape, "", trained=True)
        self._settings = {"dtype": self._dtype(), "name": str(model_config.get("name", "model"))}
        if self._problems:
            remedy = f"; {_REMEDY}" if any(problem.endswith("the layer's type") for problem in self._problems) else ""
            raise unsupported(file, f"uses features that specnet does not support: {'; '.join(self._problems)}{remedy}")

    def spec(self, arrays: Arrays) -> ModelSpec:
        """Return the document. The mean and std of a Normalization that is not first move into it from `arrays`.

        Raises CheckpointUnsupportedError if the document is invalid.
        """
        self._move_constants(self._entries, "", arrays)
        return spec_of_layers(self.file, self._shape, self._entries, **self._settings)

    def _move_constants(self, entries: list[Entry], prefix: str, arrays: Arrays) -> None:
        for index, entry in enumerate(entries):
            full = f"{prefix}{entry['name']}"
            if entry["type"] == "sequential":
                self._move_constants(entry["layers"], f"{full}.", arrays)
            elif entry["type"] == "standardize" and (index or prefix) and f"{full}.std" in arrays:
                entry |= {key: arrays.pop(f"{full}.{key}").reshape(-1).tolist() for key in ("mean", "std")}

    def _read_layers(
        self, layers: Sequence[Any], shape: ShapeTuple, prefix: str, *, trained: bool
    ) -> tuple[list[Entry], tuple[KerasLayer, ...], ShapeTuple]:
        entries: list[Entry] = []
        keras_layers: list[KerasLayer] = []
        names = LayerNames()
        for layer in layers:
            class_name, config, inner = _split_entry(self.file, layer)
            if class_name == "InputLayer":
                continue
            keras_name = str(config.get("name", class_name))
            name = names(keras_name)
            self._collect_common_settings(name, layer, config)
            for key in ("layer", "backward_layer"):
                wrapped = config.get(key)
                if isinstance(wrapped, Mapping) and isinstance(wrapped.get("config"), Mapping):
                    self._collect_common_settings(name, wrapped, wrapped["config"])
            is_trained = trained and bool(config.get("trainable", True))
            if class_name == "Sequential":
                nested, inner_layers, inner_shape = self._read_layers(
                    inner, shape, f"{prefix}{name}.", trained=is_trained
                )
                new: list[Entry] = [{"type": "sequential", "name": name, "layers": nested}] if nested else []
                keras_layers.append(KerasLayer(class_name, keras_name, (), inner_layers))
            else:
                new, variables = self._read_layer(
                    class_name, Found(name, config, shape, masked=self._is_masked), layer, prefix, names
                )
                if not is_trained and any(variable.trained for variable in variables):
                    variables = [variable._replace(trained=False) for variable in variables]
                    self.notes.append(f"{prefix}{name}: is not trained in Keras (trainable: false); freeze it here too")
                keras_layers.append(KerasLayer(class_name, keras_name, tuple(variables)))
            entries += new
            shape = inner_shape if class_name == "Sequential" else self._shape_after(new, shape)
        self.notes += [f"{prefix}{old} was renamed to {new}" for old, new in names.changed.items()]
        return entries, tuple(keras_layers), shape

    def _read_layer(
        self, class_name: str, reader: Found, layer: Mapping[str, Any], prefix: str, names: LayerNames
    ) -> tuple[list[Entry], list[Variable]]:
        try:
            if class_name not in _ALL_READERS or not is_kerass(layer):
                raise Unsupported("the layer's type")  # noqa: TRY301 - collected like the others
            entries = _ALL_READERS[class_name](reader)
        except (Unsupported, TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
            reason = str(error) if isinstance(error, Unsupported) else "its settings"
            self._problems.append(f"{prefix}{reader.name} ({class_name:.40}): {reason}")
            return [], []
        self.notes += reader.notes
        self._is_masked |= any(entry["type"] == "mask" or "mask_index" in entry for entry in entries)
        for index, entry in enumerate(entries):
            entry["name"] = reader.name if index == reader.main else names(f"{reader.name}_{entry['type']}")
        self.fills |= {f"{prefix}{reader.name}.{target}": value for target, value in reader.fills.items()}
        variables = [
            Variable(v.target and f"{prefix}{entries[v.layer]['name']}.{v.target}", v.trained) for v in reader.variables
        ]
        return entries, variables

    def _collect_common_settings(self, name: str, layer: Any, config: Mapping[str, Any]) -> None:
        """Collect the settings that all layer types have: the dtype, and those that only affect training."""
        policy = config.get("dtype")
        policy_config = policy.get("config") if isinstance(policy, Mapping) else None
        policy = policy_config.get("name") if isinstance(policy_config, Mapping) else policy
        if policy is not None and layer.get("class_name") != "Sequential":
            self._dtypes.add(str(policy))
        ignored = [key for key in config if key.endswith(("_regularizer", "_constraint")) and config[key] is not None]
        self.notes += [f"{name}: its {key} was not imported" for key in ignored]

    def _dtype(self) -> str:
        unknown = sorted(self._dtypes - {"float32", "float64"})
        if unknown:
            self._problems.append(f"dtype {unknown[0]!r:.40}: specnet computes in float32 or float64")
        if len(self._dtypes) > 1:
            self._problems.append(f"layers with different dtypes: {', '.join(sorted(self._dtypes))}"[:200])
        return "float64" if self._dtypes == {"float64"} else "float32"

    def _shape_after(self, entries: list[Entry], shape: ShapeTuple) -> ShapeTuple:
        if self._problems:
            return shape
        try:
            for entry in entries:
                # Placeholders for values that the arrays contain: a document requires them, and the shape ignores them.
                complete = {**entry, "mean": 0.0, "std": 1.0} if entry["type"] == "standardize" else entry
                shape = shape_after(self.file, complete, shape)
        except CheckpointError as error:
            self._problems.append(str(error).removeprefix(f"{self.file}: "))
        return shape

    def _input_shape(self, config: Mapping[str, Any], layers: Sequence[Any]) -> ShapeTuple:
        """Return the shape of an input row; each version of Keras stores it in another place."""
        _, first, _ = _split_entry(self.file, layers[0]) if layers else ("", {}, [])
        build_config = layers[0].get("build_config") if layers else None
        candidates = (
            first.get("batch_shape"),
            first.get("batch_input_shape"),
            [None, first["input_dim"]] if isinstance(first.get("input_dim"), int) else None,
            config.get("build_input_shape"),
            build_config.get("input_shape") if isinstance(build_config, Mapping) else None,
        )
        shape = next((value for value in candidates if isinstance(value, (list, tuple)) and len(value) > 1), None)
        if shape is None:
            raise unsupported(
                self.file, "does not state its input shape; call the model on an input in Keras and save it again"
            )
        if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in shape[1:]):
            raise unsupported(
                self.file, f"its input shape is {tuple(shape)!r:.60}; specnet needs every size except the batch size"
            )
        return tuple(shape[1:])


def _split_entry(file: str, layer: Any) -> tuple[str, Mapping[str, Any], Sequence[Any]]:
    """Return class name, config and inner layers of a layer or model; before Keras 2.2.3 a model config was a list."""
    config = layer.get("config") if isinstance(layer, Mapping) else None
    class_name = layer.get("class_name") if isinstance(layer, Mapping) else None
    if isinstance(config, list):
        config = {"layers": config}
    if not isinstance(class_name, str) or not isinstance(config, Mapping):
        raise unsupported(file, f"its config is not one of Keras: {layer!r:.80}")
    inner = config.get("layers")
    return class_name, config, inner if isinstance(inner, list) else []
