"""From a picture file to what CanViT sees: RGB, square, normalized like ImageNet.

Short side to `size`, centre crop, ImageNet mean and standard deviation: on an RGB picture the
same numbers as torchvision's Resize, CenterCrop, ToTensor and Normalize give. `fit="squish"` takes
the whole picture instead, without its aspect, and `preprocess_mask` does to a mask what was done to
its picture. Everything of `FORMATS` that has a plain meaning as colours becomes RGB first
(`to_rgb`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import index as as_int
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, get_args

import numpy as np
from PIL import Image, UnidentifiedImageError

from canvit_gym.errors import require_choice

if TYPE_CHECKING:  # pictures can be listed and shown without the seconds that importing torch takes
    from torch import Tensor

Fit = Literal["crop", "squish"]
"""How a picture becomes square: its centre with the aspect kept, or all of it with it lost."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM")
"""Formats that Pillow may take a file for; JPEG is MPO, too. It knows many more, some of which
start other programs."""

MAX_PIXELS = 40_000_000
"""Pixels of a picture as stored, at most. Decoding needs at most MAX_DECODED_BYTES, whatever a
small file says."""

MAX_DECODED_BYTES = 24 * MAX_PIXELS
"""Pillow takes 4 bytes a pixel for the picture, 4 for its RGB copy, 4 to turn it upright; its WebP
decoder needs 12 beside the first, that of progressive JPEG 6."""

MAX_SIZE_PX = 4096
"""The largest side of a square picture, in pixels."""

MAX_ASPECT = 100
"""Long side over short side: a thinner strip would fill gigabytes when its short side is scaled."""

_STRIP_PIXELS = 2**20
"""Pixels converted to RGB at a time, so that what a conversion needs beside its result is small."""

_SIXTEEN_BIT = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
_MODES = _SIXTEEN_BIT | frozenset(
    {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"}
)


_LOSSLESS = frozenset({"PNG", "BMP", "PPM", "TIFF"})
_LOSSY_COMPRESSIONS = frozenset({"jpeg", "tiff_jpeg", "webp"})


_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadablePictureError(ValueError):
    """A picture file can not be used; the message is one sentence that names it."""


class PictureStorageError(UnreadablePictureError):
    """The storage did not give the file, which says nothing about the picture in it."""


class PictureError(ValueError):
    """A picture can not be used; the message says why, without its file and without a full stop."""


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """The picture with only its header read; what is wrong with it inside names the file.

    Used with an empty body it is the cheap check that a file is a picture of a supported kind.
    Damage behind the header shows when the body decodes the picture (`decode`).

    Raises UnreadablePictureError, which is a PictureStorageError where reading the file failed.
    Errors of the body that have nothing to do with the picture pass through.
    """
    try:
        with _opened(path) as image:
            yield image
    except PictureError as error:
        if (failure := _storage_failure(path)) is not None:
            raise storage_error(path, failure) from error
        raise _unusable(path, error) from error
    except (OSError, MemoryError) as error:
        raise storage_error(path, error) from error


@contextmanager
def open_stored_picture(data: bytes, *, name: str) -> Iterator[Image.Image]:
    """`open_picture` of a picture file's bytes; `name` says where they lie, for messages."""
    try:
        with _opened(io.BytesIO(data)) as image:
            yield image
    except PictureError as error:
        raise _unusable(name, error) from error
    except MemoryError as error:
        raise storage_error(name, error) from error


@contextmanager
def _opened(source: Path | io.BytesIO) -> Iterator[Image.Image]:
    try:
        image = Image.open(source, formats=FORMATS)
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, ...
        _raise_picture_error(error)
    with image:
        require_supported(image)
        yield image


def read_picture(path: Path, size_px: int, *, upright: bool = False) -> np.ndarray:
    """`preprocess_picture` of a file."""
    with open_picture(path) as image:
        return preprocess_picture(image, size_px, upright=upright)


def decode(image: Image.Image) -> None:
    """Decode the pixels; raises PictureError where they are damaged."""
    try:
        image.load()
    except Exception as error:
        _raise_picture_error(error)


def to_rgb(image: Image.Image, *, upright: bool = False) -> Image.Image:
    """Any supported picture as 8-bit RGB; raises PictureError where it is not supported.

    `upright` applies the EXIF orientation, so that a photograph stands as its viewer shows it. The
    published pipelines ignore it, which differs only where a file carries the tag.
    Transparency is laid on white; 16-bit grey is divided by 257; CMYK is converted without its
    colour profile, as Pillow does; of several frames the first counts.
    """
    require_supported(image)
    decode(image)
    rgb = image if image.mode == "RGB" and not image.has_transparency_data else _in_strips(image)
    return _upright(rgb, exif_of=image) if upright else rgb


def _in_strips(image: Image.Image) -> Image.Image:
    """The RGB form of a decoded picture, converted a few rows at a time."""
    width, height = image.size
    rgb = Image.new("RGB", image.size)
    step = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, step):
        strip = image.crop((0, top, width, min(top + step, height)))
        rgb.paste(_strip_to_rgb(strip), (0, top))
    return rgb


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:  # Pillow's own conversion clips at 255 instead of scaling
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise PictureError(
                f"its values reach from {levels.min()} to {levels.max()}, but grey has 0 .. 65535;"
                " save it as 8-bit RGB"
            )
        return Image.fromarray(np.rint(levels / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def preprocess_picture(
    image: Image.Image, size_px: int, *, fit: Fit = "crop", upright: bool = False
) -> np.ndarray:
    """A picture as uint8 RGB [size_px, size_px, 3], antialiased; small pictures are enlarged.

    `upright` is that of `to_rgb`. Raises PictureError where the picture can not be used.
    """
    image = to_rgb(image, upright=upright)
    return np.array(to_square(image, size_px, fit=fit, resample=Image.Resampling.BILINEAR))


def preprocess_mask(image: Image.Image, size_px: int, *, fit: Fit = "crop") -> np.ndarray:
    """A mask as uint8 [size_px, size_px], with the geometry of `preprocess_picture`.

    Every value is that of the nearest pixel: none is mixed. The EXIF orientation is not applied.
    Raises PictureError as `require_mask` does.
    """
    require_mask(image)
    decode(image)
    return np.array(to_square(image, size_px, fit=fit, resample=Image.Resampling.NEAREST))


def require_mask(image: Image.Image) -> None:
    """Raise PictureError unless the picture holds 8-bit numbers, stored without loss.

    Needs the header only.
    """
    if image.mode != "L":
        raise PictureError(
            f"its Pillow mode is {image.mode}, but a mask holds class numbers, not colours; save"
            " them as 8-bit greyscale (mode L)"
        )
    require_lossless(image)


def require_lossless(image: Image.Image) -> None:
    """Raise PictureError where the file's format changes values, as JPEG does."""
    compression = image.info.get("compression")
    lossy = compression in _LOSSY_COMPRESSIONS
    if image.format is not None and (image.format not in _LOSSLESS or lossy):
        kind = f"{image.format} with {compression} compression" if lossy else image.format
        raise PictureError(
            f"it is {kind}, which may change the numbers that it stores; save it as PNG"
        )


def require_size_px(size_px: int) -> int:
    """A side in pixels as int; ValueError where it is no whole number or out of range."""
    try:
        number = as_int(size_px)
    except TypeError:
        number = 0
    if isinstance(size_px, bool) or not 1 <= number <= MAX_SIZE_PX:
        raise ValueError(
            f"size_px is {size_px!r}; give a whole number of pixels from 1 to {MAX_SIZE_PX}"
            " (CanViT uses 512)."
        )
    return number


def printable(name: object) -> str:
    """A path or name for a message: on one line, and writable in any encoding of its kind."""
    text = str(name)
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def to_square(
    image: Image.Image, size_px: int, *, fit: Fit, resample: Image.Resampling
) -> Image.Image:
    """A decoded picture of any mode as size_px x size_px.

    Rounding is torchvision's, because a crop that is off by one pixel is another picture.
    """
    require_choice("fit", fit, get_args(Fit))
    size_px = require_size_px(size_px)
    if fit == "squish":
        return image.resize((size_px, size_px), resample)
    short = min(image.size)
    width, height = (int(size_px * side / short) for side in image.size)
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"its sides of {image.width} and {image.height} pixels would become {width} and"
            f" {height} at size_px {size_px}; crop it or choose a smaller size_px"
        )
    image = image.resize((width, height), resample)
    left, top = round((width - size_px) / 2), round((height - size_px) / 2)
    return image.crop((left, top, left + size_px, top + size_px))


def normalize(pictures: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] as the model wants it, on the same device."""
    import torch

    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise ValueError(
            f"normalize was given {pictures.dtype} {list(pictures.shape)} but takes uint8"
            " [B, H, W, 3]; hand it the pictures of scenes, stacked."
        )
    planes = pictures.permute(0, 3, 1, 2)
    scaled = planes.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    return scaled.sub_(_per_channel(IMAGENET_MEAN, scaled)).div_(_per_channel(IMAGENET_STD, scaled))


def denormalize(normalized: Tensor) -> Tensor:
    """[..., 3, H, W] as the model sees it -> RGB in [0, 1]."""
    std, mean = _per_channel(IMAGENET_STD, normalized), _per_channel(IMAGENET_MEAN, normalized)
    return (normalized * std + mean).clamp(0, 1)


def preprocess(size: int) -> Callable[[Image.Image], Tensor]:
    """A transform in torchvision's manner: PIL picture -> normalized [3, size, size]."""
    import torch

    def transform(image: Image.Image) -> Tensor:
        return normalize(torch.from_numpy(preprocess_picture(image, size))[None])[0]

    return transform


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return like.new_tensor(values).view(-1, 1, 1)


def require_supported(image: Image.Image) -> None:
    """Raise PictureError where size or mode have no plain meaning; needs the header only."""
    short, long = sorted(image.size)
    if short < 1 or short * long > MAX_PIXELS:
        raise PictureError(_too_large(f"its {short * long / 1e6:.0f} megapixels"))
    if long > MAX_ASPECT * short:
        raise PictureError(
            f"its sides of {short} and {long} pixels are more than {MAX_ASPECT} to 1; crop it"
        )
    if image.mode not in _MODES:
        raise PictureError(
            f"its Pillow mode {image.mode} has no plain meaning as colours; save it as 8-bit RGB"
        )
    # 16-bit PNG and PGM may come as 32-bit integers, which then mean 0 .. 65535.
    if image.mode == "I" and image.format == "TIFF":
        raise PictureError(
            "its 32-bit integers have no plain meaning as colours; save it as 8-bit RGB or as"
            " 16-bit grey"
        )


def _too_large(what: str) -> str:
    return (
        f"{what} are outside 1 pixel to {MAX_PIXELS / 1e6:.0f} megapixels, for which decoding needs"
        f" up to {MAX_DECODED_BYTES / 1e6:.0f} MB of memory; save it smaller"
    )


def _upright(rgb: Image.Image, *, exif_of: Image.Image) -> Image.Image:
    """The EXIF orientation applied; broken EXIF, which camera files do carry, counts as none."""
    try:
        orientation = exif_of.getexif().get(_ORIENTATION)
    except Exception:  # the pixels are decoded by now: whatever fails here is the metadata
        return rgb
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return rgb if turn is None else rgb.transpose(turn)


def _raise_picture_error(error: Exception) -> NoReturn:
    """Raise what a failure in Pillow means: damage, or, unchanged, a storage that failed."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
        raise error
    if isinstance(error, UnidentifiedImageError):
        meaning = "Pillow finds no picture in it; replace or remove it"
    elif isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        meaning = _too_large("its pixels")
    else:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        meaning = f"{reason}; check or replace the file"
    raise PictureError(meaning) from error


def _storage_failure(path: Path) -> OSError | None:
    """Why the file can not be read: some decoders report that as if its data were damaged."""
    try:
        with path.open("rb") as file:
            while file.read(2**20):
                pass
    except OSError as error:
        return error
    return None


def _unusable(where: object, error: PictureError) -> UnreadablePictureError:
    return UnreadablePictureError(f"{printable(where)} can not be used: {error}.")


def storage_error(where: object, error: Exception) -> PictureStorageError:
    """The error of a place that did not give what lies there."""
    reason = getattr(error, "strerror", None) or str(error) or "no memory was left"
    return PictureStorageError(
        f"{printable(where)} can not be read: {reason}; check that the storage is still there and"
        " go on, for the picture itself may be whole."
    )
