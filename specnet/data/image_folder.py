"""Read a folder of PNG and JPEG images with one sub-folder for each class, with Pillow (the extra `images`)."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from specnet.arrays.conversion import batch_of
from specnet.arrays.parameters import ShapeTuple
from specnet.data.raw import RawArray, RawRows, checked_text, guarded, text_array
from specnet.errors import DataError, SpecnetError
from specnet.files.paths import is_folder
from specnet.files.regular import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = (".png", ".jpg", ".jpeg")


_MODES = ("1", "L", "P", "RGB", "LA", "PA", "RGBA")
"""Pillow's names of what becomes grey or RGB values of 8 bits without a choice, apart from transparency."""


_PNG = b"\x89PNG\r\n\x1a\n"


def read_images(folder: Path, input_shape: ShapeTuple, *, labelled: bool = True) -> RawRows:
    """Return the images as uint8 (rows, *input_shape), sorted by class and file name; targets are the class names.

    Without `labelled` there are no targets, and the images may also be in the folder itself. Every image must have the
    height and width of `input_shape`, and gets its channels: grey or RGB. Raises DataError, which names the image.
    """
    mode = _mode_for(folder, input_shape)
    files = guarded(folder, lambda: _image_files(folder, labelled=labelled))
    _pillow()
    images = guarded(folder, lambda: np.empty((len(files), *input_shape), np.uint8))
    with warnings.catch_warnings(action="ignore"):  # of images far too large, or with invalid notes: they are refused
        for row, path in enumerate(files):
            images[row] = _read_image(path, mode, input_shape).reshape(input_shape)
    if not labelled:
        return RawRows(images)
    names = text_array(folder, [path.parent.name for path in files], "the name of a class")
    return RawRows(images, checked_text(folder, names))


def _pillow() -> Any:
    """Import Pillow's module for images and return it. Raises SpecnetError with the command that installs it."""
    try:
        from PIL import Image  # noqa: PLC0415 - an extra
    except ImportError:
        msg = "reading images needs Pillow; pip install 'specnet-nn[images]'"
        raise SpecnetError(msg) from None
    return Image


def _mode_for(folder: Path, input_shape: ShapeTuple) -> str:
    """Return Pillow's name of the model's channels: grey, also for a shape without channels, or RGB."""
    channels = input_shape[2] if len(input_shape) == 3 else 1
    if len(input_shape) not in (2, 3) or channels not in (1, 3):
        expected = "input_shape [height, width, 1] for grey images or [height, width, 3] for RGB"
        msg = f"{folder}: is a folder of images; expected {expected}, got {list(input_shape)}"
        raise DataError(msg)
    return "L" if channels == 1 else "RGB"


def _image_files(folder: Path, *, labelled: bool) -> list[Path]:
    """Return the images in the order of their rows. Raises DataError for anything else, except hidden files."""
    entries = _visible(folder)
    classes = [entry for entry in entries if is_folder(entry)]
    if not classes and not labelled:
        return [_checked_file(entry) for entry in entries]
    for entry in entries:
        if entry not in classes:
            msg = f"{entry}: expected a folder for each class, got a file; move it into the folder of its class"
            raise DataError(msg)
    if not classes:
        msg = f"{folder}: expected a folder for each class, with images; there is none"
        raise DataError(msg)
    return [_checked_file(entry) for name in classes for entry in _visible(name)]


def _visible(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted by name, without hidden files. Raises DataError if there is nothing."""
    entries = sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda e: e.name)
    if not entries:
        msg = f"{folder}: expected images, the folder is empty; fill it or remove it"
        raise DataError(msg)
    return entries


def _checked_file(path: Path) -> Path:
    if is_folder(path) or path.suffix.lower() not in _SUFFIXES:
        what = "a folder" if is_folder(path) else "another file"
        msg = f"{path}: expected an image ({', '.join(_SUFFIXES)}), got {what}; remove it"
        raise DataError(msg)
    return path


def _read_image(path: Path, mode: str, input_shape: ShapeTuple) -> RawArray:
    image_module = _pillow()

    def read() -> RawArray:
        with open_regular(path) as file:
            head = file.read(25)
            file.seek(0)
            with _open_image(path, file) as image:
                _refuse_others(path, image, head, input_shape)
                return np.asarray(_opaque(path, image).convert(mode))

    try:
        return guarded(path, read)
    except image_module.DecompressionBombError:
        problem = f"is far larger than the model's inputs, {batch_of(input_shape)}"
    except (struct.error, IndexError):  # Pillow itself expects these from its decoders of invalid files
        problem = "is not a valid image"
    msg = f"{path}: {problem}"
    raise DataError(msg)


def _open_image(path: Path, file: BinaryIO) -> Image:
    """Read the head of a PNG or JPEG image; Pillow's other formats are not offered to it. Raises DataError."""
    image_module = _pillow()
    try:
        image: Image = image_module.open(file, formats=("PNG", "JPEG"))
    except image_module.UnidentifiedImageError:
        msg = f"{path}: is not a valid PNG or JPEG image; remove it"
        raise DataError(msg) from None
    return image


def _refuse_others(path: Path, image: Image, head: bytes, input_shape: ShapeTuple) -> None:
    """Check size and kind before the image is decoded, so that memory is bounded by the model's inputs."""
    height, width = input_shape[:2]
    problem = ""
    if image.size != (width, height):
        size = f"{image.height} x {image.width} pixels"
        problem = f"expected {height} x {width} pixels (height x width), the model's input_shape, got {size}; resize it"
    elif head.startswith(_PNG) and head[24] == 16:
        problem = "expected values of 8 bits, got 16; convert it"
    elif image.mode not in _MODES:
        problem = f"expected a grey or RGB image, got {image.mode}; convert it"
    elif image.format == "PNG" and getattr(image, "is_animated", False):
        problem = "expected one picture, got an animation; save its frames as files"
    if problem:
        msg = f"{path}: {problem}"
        raise DataError(msg)


def _opaque(path: Path, image: Image) -> Image:
    """Return an image without its alpha channel. Raises DataError if that would show what is transparent."""
    if image.mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    if image.getchannel("A").tobytes().strip(b"\xff"):
        msg = f"{path}: has transparent pixels; put it on a background"
        raise DataError(msg)
    return image.convert("RGB")
