"""The config of a Keras Sequential model, as both file formats have it, becomes layers and a list of variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from specnet.arrays.parameters import ShapeTuple
from specnet.errors import CheckpointError
from specnet.interop.imported_model import Arrays, LayerNames, checked_inputs, shape_after, spec_of_layers, unsupported
from specnet.interop.keras.layers import READERS, Entry, Found, Unsupported, Variable, is_kerass
from specnet.spec.model_spec import ModelSpec

_REMEDY = "a file holds no more than their names, and no code of a file is run; export the model to ONNX instead"


class KerasLayer(NamedTuple):
    """One layer with its variables, in Keras's order; a Sequential inside has layers of its own.

    The variables' targets are full names, "block.hidden.weight", "" for what is not kept.
    """

    class_name: str
    name: str
    variables: tuple[Variable, ...] = ()
    inner: tuple[KerasLayer, ...] = ()

    def all_variables(self) -> list[Variable]:
        """List all variables inside, the trained ones first, as Keras does."""
        found = [*self.variables, *(v for layer in self.inner for v in layer.all_variables())]
        return sorted(found, key=lambda variable: not variable.trained)


class KerasNetwork:
    """A document, the layers with their variables, and notes; made from a config."""

    def __init__(self, file: str, config: Any) -> None:
        self.file = file
        self.fills: dict[str, float] = {}
        self.notes: list[str] = []
        self._faults: list[str] = []
        self._dtypes: set[str] = set()
        class_name, inside, layers = _parts(file, config)
        if class_name != "Sequential":
            told = f"is a {class_name!r:.40} model, expected a Sequential one; {_REMEDY}"
            raise unsupported(file, told)
        self._shape = checked_inputs(file, self._input_shape(inside, layers))
        self._entries, self.layers, _ = self._walk(layers, self._shape, "", trained=True)
        self._more = {"dtype": self._dtype(), "name": str(inside.get("name", "model"))}
        if self._faults:
            remedy = f"; {_REMEDY}" if any(problem.endswith("the layer's type") for problem in self._faults) else ""
            raise unsupported(file, f"holds what specnet has nothing for: {'; '.join(self._faults)}{remedy}")

    def spec(self, arrays: Arrays) -> ModelSpec:
        """Make the document. A Normalization that is not first gets its values from `arrays`, which loses them.

        Raises CheckpointUnsupportedError where it is none.
        """
        self._give_values(self._entries, "", arrays)
        return spec_of_layers(self.file, self._shape, self._entries, **self._more)

    def _give_values(self, entries: list[Entry], prefix: str, arrays: Arrays) -> None:
        for index, entry in enumerate(entries):
            full = f"{prefix}{entry['name']}"
            if entry["type"] == "sequential":
                self._give_values(entry["layers"], f"{full}.", arrays)
            elif entry["type"] == "standardize" and (index or prefix) and f"{full}.std" in arrays:
                entry |= {key: arrays.pop(f"{full}.{key}").reshape(-1).tolist() for key in ("mean", "std")}

    def _walk(
        self, layers: Sequence[Any], shape: ShapeTuple, prefix: str, *, trained: bool
    ) -> tuple[list[Entry], tuple[KerasLayer, ...], ShapeTuple]:
        entries: list[Entry] = []
        found: list[KerasLayer] = []
        names = LayerNames()
        for layer in layers:
            class_name, config, inner = _parts(self.file, layer)
            if class_name == "InputLayer":
                continue
            own = str(config.get("name", class_name))
            name = names(own)
            self._look_at(name, layer, config)
            trains = trained and bool(config.get("trainable", True))
            if class_name == "Sequential":
                made, within, inside = self._walk(inner, shape, f"{prefix}{name}.", trained=trains)
                new: list[Entry] = [{"type": "sequential", "name": name, "layers": made}] if made else []
                found.append(KerasLayer(class_name, own, (), within))
            else:
                new, variables = self._read(class_name, Found(name, config, shape), layer, prefix)
                if not trains and any(variable.trained for variable in variables):
                    variables = [variable._replace(trained=False) for variable in variables]
                    self.notes.append(
                        f"{prefix}{name}: is not trained in Keras (trainable: false); freeze it here, too"
                    )
                found.append(KerasLayer(class_name, own, tuple(variables)))
                for index, entry in enumerate(new):
                    entry["name"] = names(f"{name}_{entry['type']}") if index else name
            entries += new
            shape = inside if class_name == "Sequential" else self._shape_after(new, shape)
        self.notes += [f"{prefix}{old} is called {new} here" for old, new in names.changed.items()]
        return entries, tuple(found), shape

    def _read(
        self, class_name: str, found: Found, layer: Mapping[str, Any], prefix: str
    ) -> tuple[list[Entry], list[Variable]]:
        try:
            if class_name not in READERS or not is_kerass(layer):
                raise Unsupported("the layer's type")  # noqa: TRY301 - told as the others are
            entries = READERS[class_name](found)
        except (Unsupported, TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
            why = str(error) if isinstance(error, Unsupported) else "its settings"
            self._faults.append(f"{prefix}{found.name} ({class_name:.40}): {why}")
            return [], []
        self.notes += found.notes
        full = f"{prefix}{found.name}"
        self.fills |= {f"{full}.{target}": value for target, value in found.fills.items()}
        variables = [v._replace(target=v.target and f"{full}.{v.target}") for v in found.variables]
        return entries, variables

    def _look_at(self, name: str, layer: Any, config: Mapping[str, Any]) -> None:
        """Gather what concerns all kinds of layers: the dtype, and what is for training alone."""
        policy = config.get("dtype")
        inner = policy.get("config") if isinstance(policy, Mapping) else None
        policy = inner.get("name") if isinstance(inner, Mapping) else policy
        if policy is not None and layer.get("class_name") != "Sequential":
            self._dtypes.add(str(policy))
        kept = [key for key in config if key.endswith(("_regularizer", "_constraint")) and config[key] is not None]
        self.notes += [f"{name}: its {key} is left behind" for key in kept]

    def _dtype(self) -> str:
        odd = sorted(self._dtypes - {"float32", "float64"})
        if odd:
            self._faults.append(f"dtype {odd[0]!r:.40}: specnet computes in float32 or float64")
        if len(self._dtypes) > 1:
            self._faults.append(f"layers of several dtypes: {', '.join(sorted(self._dtypes))}"[:200])
        return "float64" if self._dtypes == {"float64"} else "float32"

    def _shape_after(self, entries: list[Entry], shape: ShapeTuple) -> ShapeTuple:
        if self._faults:
            return shape
        try:
            for entry in entries:
                plain = {**entry, "mean": 0.0, "std": 1.0} if entry["type"] == "standardize" else entry
                shape = shape_after(self.file, plain, shape)
        except CheckpointError as error:
            self._faults.append(str(error).removeprefix(f"{self.file}: "))
        return shape

    def _input_shape(self, config: Mapping[str, Any], layers: Sequence[Any]) -> ShapeTuple:
        """Find the shape of an input, which each version of Keras has kept somewhere else."""
        _, first, _ = _parts(self.file, layers[0]) if layers else ("", {}, [])
        built = layers[0].get("build_config") if layers else None
        candidates = (
            first.get("batch_shape"),
            first.get("batch_input_shape"),
            [None, first["input_dim"]] if isinstance(first.get("input_dim"), int) else None,
            config.get("build_input_shape"),
            built.get("input_shape") if isinstance(built, Mapping) else None,
        )
        shape = next((value for value in candidates if isinstance(value, (list, tuple)) and len(value) > 1), None)
        if shape is None:
            raise unsupported(
                self.file, "tells no shape of its inputs; call the model on an input in Keras, save it again"
            )
        if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in shape[1:]):
            raise unsupported(
                self.file, f"takes inputs of shape {tuple(shape)!r:.60}; specnet needs all sizes but the batch's"
            )
        return tuple(shape[1:])


def _parts(file: str, layer: Any) -> tuple[str, Mapping[str, Any], Sequence[Any]]:
    """Give class name, config and inner layers of a layer or model; before Keras 2.2.3 a model's config was a list."""
    config = layer.get("config") if isinstance(layer, Mapping) else None
    class_name = layer.get("class_name") if isinstance(layer, Mapping) else None
    if isinstance(config, list):
        config = {"layers": config}
    if not isinstance(class_name, str) or not isinstance(config, Mapping):
        raise unsupported(file, f"has a config that is none of Keras: {layer!r:.80}")
    inner = config.get("layers")
    return class_name, config, inner if isinstance(inner, list) else []
