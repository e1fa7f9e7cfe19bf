"""The contents of the files of a data entry, and their conversion for a model and its loss."""

from __future__ import annotations

from typing import NamedTuple

from specnet.data.conform import conform_weights, refuse_lost_digits, store_inputs
from specnet.data.dataset import Dataset
from specnet.data.labels import TargetRules, labels_of
from specnet.data.large_arrays import LargeArray
from specnet.data.raw import Note, RawArray, RawRows, ignore
from specnet.data.sequences.ragged import conform_step_targets, padded
from specnet.data.sequences.text import fill_vocabulary, tokenized
from specnet.data.sequences.windows import Windows, windowed
from specnet.data.streaming import AnyDataset, StreamedDataset
from specnet.spec.model_spec import ModelSpec
from specnet.spec.tokenizer_spec import TokenizerSpec


class RawEntry(NamedTuple):
    """Contents of the files of an entry, and their names for messages. `large`: inputs that stay in their file."""

    rows: RawRows
    large: LargeArray | None
    source: str
    target_source: str
    scale: float | None = None
    windows: Windows | None = None

    def labels(self, spec: ModelSpec, loss: TargetRules) -> tuple[str, ...]:
        """Return the class names: those of the model document, or those in text targets. Raises DataError."""
        return labels_of(self.rows.targets, spec, loss, self.target_source)

    def tokenizer(self, spec: ModelSpec, note: Note = ignore) -> TokenizerSpec | None:
        """Return the model's tokenizer; one without a vocabulary, with that of these rows, if they are text."""
        return fill_vocabulary(self.rows, spec, self.source, note)

    def fit(self, spec: ModelSpec, loss: TargetRules) -> AnyDataset:
        """Convert the rows for a model and its loss. Raises DataError."""
        large = self.large
        if large is not None:
            y, weights = self._targets(self.rows, spec, loss, large.shape[0] if large.shape else 0)
            return StreamedDataset(large, y, weights, spec, self.source, self.scale)
        if self.windows is not None:
            return windowed(self.rows, spec, loss, self.windows, self.source, self.target_source, self.scale)
        raw = padded(tokenized(self.rows, spec, self.source), spec, self.source, self.scale)
        is_padded = raw.lengths is not None
        names = () if is_padded else raw.names
        stored, conversion = store_inputs(raw.inputs, spec, self.source, self.scale, names=names)
        refuse_lost_digits(raw.inputs, stored.dtype, self.source, names)
        y, weights = self._targets(raw, spec, loss, len(stored))
        return Dataset(stored, y, weights, raw.names, conversion=conversion, padded=is_padded)

    def _targets(self, raw: RawRows, spec: ModelSpec, loss: TargetRules, rows: int) -> tuple[RawArray, RawArray | None]:
        """Return targets and weights, converted. Raises DataError."""
        y = conform_step_targets(raw, spec, loss, rows, self.target_source)
        return y, conform_weights(raw.weights, spec, rows, self.target_source)
