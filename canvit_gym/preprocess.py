"""From a picture file to what CanViT sees: RGB, square, normalized like ImageNet.

Short side to `size`, centre crop, ImageNet mean and standard deviation: on an RGB picture the
same numbers as torchvision's Resize, CenterCrop, ToTensor and Normalize give. `fit="squish"` takes
the whole picture instead, without its aspect, and `preprocess_mask` does to a mask what was done to
its picture. Everything that Pillow opens and that has a plain meaning as colours becomes RGB first
(`to_rgb`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from canvit_gym.errors import require_choice

if TYPE_CHECKING:  # pictures can be listed and shown without the seconds that importing torch takes
    from torch import Tensor

Fit = Literal["crop", "squish"]
"""How a picture becomes square: its centre with the aspect kept, or all of it with it lost."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MAX_PIXELS = 80_000_000
"""Below the size at which Pillow itself warns of a decompression bomb; 240 MB once decoded."""

MAX_ASPECT = 100
"""Long side over short side: a thinner strip would fill gigabytes when its short side is scaled."""

_SIXTEEN_BIT = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
_MODES = _SIXTEEN_BIT | frozenset(
    {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"}
)


class UnreadablePictureError(ValueError):
    """A picture file can not be used; the message is one sentence that names it."""


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """The picture with only its header read; whatever goes wrong inside names the file.

    Used with an empty body it is the cheap check that a file is a picture of a supported kind.
    Damage behind the header shows when the body decodes the picture.
    """
    try:
        with Image.open(path) as image:
            _require_supported(image)
            yield image
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        raise UnreadablePictureError(f"{path} can not be used: {_reason(error)}.") from error


def read_picture(path: Path, size_px: int) -> np.ndarray:
    """`preprocess_picture` of a file."""
    with open_picture(path) as image:
        return preprocess_picture(image, size_px)


def to_rgb(image: Image.Image, *, upright: bool = True) -> Image.Image:
    """Any supported picture as 8-bit RGB.

    `upright` applies the EXIF orientation, so that a photograph stands as its viewer shows it. The
    reference pipelines ignore it, which differs only where a file carries the tag.
    Transparency is laid on white; 16-bit grey is divided by 257; CMYK is converted without its
    colour profile, as Pillow does; of several frames the first counts.
    """
    _require_supported(image)
    image.load()
    if upright:
        image = _upright(image)
    if image.mode in _SIXTEEN_BIT:  # Pillow's own conversion clips at 255 instead of scaling
        levels = np.rint(np.clip(np.asarray(image), 0, 65535) / 257).astype(np.uint8)
        return Image.fromarray(levels).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def preprocess_picture(
    image: Image.Image, size_px: int, *, fit: Fit = "crop", upright: bool = True
) -> np.ndarray:
    """A picture as uint8 RGB [size_px, size_px, 3], antialiased; small pictures are enlarged.

    `upright` is that of `to_rgb`.
    """
    image = to_rgb(image, upright=upright)
    return np.array(_to_square(image, size_px, fit, Image.Resampling.BILINEAR))


def preprocess_mask(image: Image.Image, size_px: int, *, fit: Fit = "crop") -> np.ndarray:
    """A mask as uint8 [size_px, size_px], with the geometry of `preprocess_picture`.

    Every value is that of the nearest pixel: none is mixed. The EXIF orientation is not applied.
    Raises ValueError as `require_mask` does.
    """
    require_mask(image)
    return np.array(_to_square(image, size_px, fit, Image.Resampling.NEAREST))


def require_mask(image: Image.Image) -> None:
    """Raise ValueError unless the picture holds 8-bit numbers; needs its header only."""
    if image.mode != "L":
        raise ValueError(
            f"its Pillow mode is {image.mode}, but a mask holds class numbers, not colours; save"
            " them as 8-bit greyscale (mode L)"
        )


def _to_square(
    image: Image.Image, size_px: int, fit: Fit, resample: Image.Resampling
) -> Image.Image:
    """Rounding is torchvision's, because a crop that is off by one pixel is another picture."""
    require_choice("fit", fit, get_args(Fit))
    if fit == "squish":
        return image.resize((size_px, size_px), resample)
    short = min(image.size)
    width, height = (int(size_px * side / short) for side in image.size)
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


def _require_supported(image: Image.Image) -> None:
    """Needs the header only, so that a folder of pictures can be checked before a run."""
    short, long = sorted(image.size)
    if short < 1 or short * long > MAX_PIXELS:
        raise ValueError(_too_large(f"its {short * long / 1e6:.0f} megapixels"))
    if long > MAX_ASPECT * short:
        raise ValueError(
            f"its sides of {short} and {long} pixels are more than {MAX_ASPECT} to 1; crop it"
        )
    if image.mode not in _MODES:
        raise ValueError(
            f"its Pillow mode {image.mode} has no plain meaning as colours; save it as 8-bit RGB"
        )


def _too_large(what: str) -> str:
    return f"{what} are outside 1 pixel to {MAX_PIXELS / 1e6:.0f} megapixels; save it smaller"


def _upright(image: Image.Image) -> Image.Image:
    """The EXIF orientation applied; broken EXIF, which camera files do carry, counts as none."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are decoded by now: whatever fails here is the metadata
        return image


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "Pillow finds no picture in it; replace or remove it"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return _too_large("its pixels")
    reason = (str(error) or type(error).__name__).rstrip(".")
    # Our own refusals say what to do; Pillow's decoders do not.
    return reason if isinstance(error, ValueError) else f"{reason}; check or replace the file"
