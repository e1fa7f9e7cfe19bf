"""The images of a report: the filters of a model, and how it reads the rows that it misclassifies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from specnet.inspection import charts
from specnet.inspection.classification import Sample
from specnet.inspection.trace import AnyArray
from specnet.inspection.vision import Filters, View

LARGEST_PICTURE = 32 * 32
"""Grey images of at most this many pixels are drawn in the colour of the text, others as photos."""


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


def _picture(view: View, label: str) -> str:
    image = view.image
    if image.ndim == 2 and image.size <= LARGEST_PICTURE:
        return charts.picture(image, label)
    return charts.photo(charts.scaled(image), label)


def _largest(values: AnyArray) -> float:
    """Return the largest size of the finite values, 0 without any."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0))
