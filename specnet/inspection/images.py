"""The images of a report: the filters of a model, how it reads the rows that it misclassifies, and attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from specnet.inspection import charts
from specnet.inspection.attention_maps import SequenceMaps
from specnet.inspection.classification import Sample
from specnet.inspection.trace import AnyArray
from specnet.inspection.vision import Filters, View

LARGEST_PICTURE = 32 * 32
"""Grey images of at most this many pixels are drawn in the colour of the text, others as photos."""

MOST_LABELLED = 32
"""Attention maps of at most this many steps have the labels of the steps."""
MOST_LISTED = 64
"""The number of steps in a table of attention."""


class Gallery(NamedTuple):
    """Images as HTML that belong together, a caption, and a description of all of them for those who see none."""

    images: list[str]
    caption: str = ""
    description: str = ""


def filter_gallery(filters: Filters) -> Gallery:
    """Return the filters of a convolution as images: in colour, or coloured by the signs of their numbers."""
    count, height, width = filters.weight.shape[:3]
    largest = _largest(filters.weight)
    if filters.weight.ndim == 4:
        middle = filters.weight / (2 * largest) + 0.5 if largest else np.full(filters.weight.shape, 0.5)
        images = [charts.photo(np.clip(np.nan_to_num(shares, nan=0.5), 0, 1)) for shares in middle]
        key = "grey is 0"
    else:
        images = [charts.heat(weight, largest) for weight in filters.weight]
        key = "positive numbers are orange, negative ones blue"
    of = f"The {count} filters" if count == filters.count else f"The first {count} of {filters.count} filters"
    mean = "" if filters.channels in (1, 3) else f", each the mean over {filters.channels} channels"
    caption = f"{of} of {filters.layer}, {height} x {width}{mean}; {key}, at most {largest:.3g} in size"
    return Gallery(images, caption, caption)


def sample_gallery(sample: Sample) -> Gallery:
    """Return the picture of a row, and its saliency map if it is an image that a model reads as such."""
    if sample.view is None:
        return Gallery([])
    row, view = f"row {sample.row}", sample.view
    height, width = view.saliency.shape
    where = np.unravel_index(np.nan_to_num(view.saliency).argmax(), view.saliency.shape)
    strongest = f"the strongest pixel is in row {where[0]}, column {where[1]} of {height} x {width}"
    largest = _largest(view.saliency)
    label = f"Saliency map of {row}: {strongest if largest else 'no pixel changes the score'}"
    return Gallery([_picture(view, f"Input of {row}"), charts.heat(view.saliency, largest, label)])


def map_gallery(sample: Sample, layer: str, count: int) -> Gallery:
    """Return the feature maps of a row as images on one scale: the first of `count` outputs of `layer`."""
    if sample.view is None or not sample.view.maps.size:
        return Gallery([])
    maps = np.moveaxis(sample.view.maps, 2, 0)
    largest = _largest(maps)
    caption = f"{layer}: {len(maps)} of {count} maps"
    means = ", ".join(f"{value:.2g}" for value in maps.mean(axis=(1, 2)))
    description = f"Feature maps of row {sample.row}, {caption}; their means are {means}"
    return Gallery([charts.heat(values, largest) for values in maps], caption, description)


class AttentionGallery(NamedTuple):
    """The heads of a sequence: a heading, the pictures with their captions, and the strongest links as a table.

    A row of the table is a step, its number from 1 and its label, and then for each head the step of which it takes
    most, as text. `listed` says how many steps the table has, if there are more.
    """

    title: str
    pictures: list[tuple[str, str]]
    heads: list[str]
    table: list[tuple[str, list[str]]]
    listed: str


def attention_gallery(sequence: SequenceMaps) -> AttentionGallery:
    """Return the attention maps of a sequence as pictures and as a table of the strongest links."""
    heads = [
        (f"{maps.layer}, head {head + 1}", maps.labels, attention)
        for maps in sequence.layers
        for head, attention in enumerate(maps.attention)
    ]
    pictures = []
    for name, labels, attention in heads:
        largest = _largest(attention)
        label = f"Attention of {name}, for row {sequence.row}: {_summary(attention, labels)}"
        if len(labels) <= MOST_LABELLED:
            picture, size = charts.labelled_heat(attention, largest, labels, label), ""
        else:
            picture = charts.heat(attention, largest, label)
            size = f", {len(labels)} steps{_thinned(len(labels))}"
        pictures.append((picture, f"{name}{size}; full colour is {largest:.2g}"))
    steps = max((len(labels) for _, labels, _ in heads), default=0)
    table = [
        (_step_text(index, heads), [_strongest(index, labels, attention) for _, labels, attention in heads])
        for index in range(min(steps, MOST_LISTED))
    ]
    listed = f", the first {MOST_LISTED} of {steps} steps" if steps > MOST_LISTED else ""
    return AttentionGallery(f"Row {sequence.row}", pictures, [name for name, _, _ in heads], table, listed)


def _summary(attention: AnyArray, labels: Sequence[str]) -> str:
    """Return in words how much goes to the step itself and to the one before, and the strongest link."""
    shares = np.nan_to_num(attention)
    itself = f"a step takes {_percent(np.trace(shares) / len(shares))} of itself"
    before = f" and {_percent(np.trace(shares, -1) / (len(shares) - 1))} of the step before" if len(shares) > 1 else ""
    query, key = divmod(int(shares.argmax()), len(shares))
    most = f"the strongest is step {query + 1} ({labels[query]}), which takes {_percent(shares[query, key])}"
    return f"on average {itself}{before}; {most} of step {key + 1} ({labels[key]})"


def _thinned(steps: int) -> str:
    every = charts.thinning(steps)
    ordinal = {2: "2nd", 3: "3rd"}.get(every, f"{every}th")
    return f", of which every {ordinal} is shown" if every > 1 else ""


def _step_text(index: int, heads: list[tuple[str, tuple[str, ...], AnyArray]]) -> str:
    label = next(labels[index] for _, labels, _ in heads if index < len(labels))
    return str(index + 1) if label == str(index + 1) else f"{index + 1}: {label}"


def _strongest(index: int, labels: Sequence[str], attention: AnyArray) -> str:
    """Return of which step a step takes most, and its share."""
    if index >= len(labels):
        return ""
    key = int(np.nan_to_num(attention[index]).argmax())
    return f"{key + 1}{'' if labels[key] == str(key + 1) else f': {labels[key]}'}, {_percent(attention[index, key])}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _picture(view: View, label: str) -> str:
    image = view.image
    if image.ndim == 2 and image.size <= LARGEST_PICTURE:
        return charts.picture(image, label)
    return charts.photo(charts.scaled(image), label)


def _largest(values: AnyArray) -> float:
    """Return the largest size of the finite values, 0 without any."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0))
