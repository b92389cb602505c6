"""Rebuild the sprite pack in `assets/sprites` from the three published emoji packages.

The pack is committed, so this runs only when a sprite is added or a source is updated:

    npm pack @lobehub/fluent-emoji-3d@1.1.0
    npm pack @iconify-json/twemoji@1.2.5
    apt-get download fonts-noto-color-emoji          # Debian 12: 2.042-0+deb12u1
    dpkg -x fonts-noto-color-emoji_*.deb noto        # noto/usr/share/fonts/truetype/noto/
    pip install resvg-py                             # renders Twemoji's SVGs

    python -m canvit_gym.assets.build_sprites \\
        --fluent lobehub-fluent-emoji-3d-1.1.0.tgz \\
        --twemoji iconify-json-twemoji-1.2.5.tgz \\
        --noto noto/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf

Each style becomes one lossless WebP atlas: `COLUMNS` sprites to a row, in the order of
`sprites.CODEPOINTS`. A sprite is cropped to what is visible and fills its cell, so a sprite's
size in a scene is the size that is seen, whatever margin its artist left.
"""

import argparse
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageFont
from PIL.ImageDraw import Draw

from canvit_gym.scenes.sprites import CELL_PX, CODEPOINTS, COLUMNS

RENDER_PX = 256
VISIBLE_ALPHA = 16  # fainter pixels (wide soft shadows) do not count as part of a sprite
NOTO_STRIKE_PX = 109  # the one size of Noto's embedded bitmaps, 136 x 128 px


def fluent_reader(package: Path) -> Callable[[str], Image.Image]:
    """Fluent Emoji 3D: one WebP per codepoint, some with the variation selector in the name."""
    with tarfile.open(package) as archive:
        files = {
            Path(member.name).stem: file.read()
            for member in archive
            if member.name.endswith(".webp") and (file := archive.extractfile(member))
        }

    def read(codepoint: str) -> Image.Image:
        data = files[codepoint] if codepoint in files else files[f"{codepoint}-fe0f"]
        return Image.open(io.BytesIO(data)).convert("RGBA")

    return read


def twemoji_reader(package: Path) -> Callable[[str], Image.Image]:
    """Twemoji in Iconify's format: codepoint -> name in one JSON file, name -> SVG in another."""
    import resvg_py  # a build-time tool only

    def read_json(archive: tarfile.TarFile, name: str) -> Any:
        file = archive.extractfile(f"package/{name}")
        assert file is not None
        return json.load(file)

    with tarfile.open(package) as archive:
        names = read_json(archive, "chars.json")
        icons = read_json(archive, "icons.json")["icons"]

    def read(codepoint: str) -> Image.Image:
        body = icons[names[codepoint]]["body"]
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 36 36">{body}</svg>'
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=RENDER_PX, height=RENDER_PX))
        return Image.open(io.BytesIO(png)).convert("RGBA")

    return read


def noto_reader(font_file: Path) -> Callable[[str], Image.Image]:
    """Noto Color Emoji: bitmaps embedded in a font."""
    font = ImageFont.truetype(str(font_file), NOTO_STRIKE_PX)

    def read(codepoint: str) -> Image.Image:
        image = Image.new("RGBA", (136, 128))
        Draw(image).text((0, 0), chr(int(codepoint, 16)), font=font, embedded_color=True)
        return image

    return read


def fill_cell(image: Image.Image) -> Image.Image:
    """Crop to what is visible and scale it to fill a `CELL_PX` square, centred."""
    visible = image.getchannel("A").point(lambda alpha: 255 * (alpha >= VISIBLE_ALPHA)).getbbox()
    assert visible is not None, "an empty sprite"
    image = image.crop(visible)
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)


def build_atlas(read: Callable[[str], Image.Image]) -> Image.Image:
    rows = -(-len(CODEPOINTS) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * CELL_PX, rows * CELL_PX))
    for position, codepoint in enumerate(CODEPOINTS):
        row, column = divmod(position, COLUMNS)
        atlas.paste(fill_cell(read(codepoint)), (column * CELL_PX, row * CELL_PX))
    return atlas


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fluent", type=Path, required=True, help="@lobehub/fluent-emoji-3d .tgz")
    parser.add_argument("--twemoji", type=Path, required=True, help="@iconify-json/twemoji .tgz")
    parser.add_argument("--noto", type=Path, required=True, help="NotoColorEmoji.ttf")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "sprites")
    arguments = parser.parse_args()
    readers = {
        "fluent": fluent_reader(arguments.fluent),
        "twemoji": twemoji_reader(arguments.twemoji),
        "noto": noto_reader(arguments.noto),
    }
    for style, read in readers.items():
        path = arguments.out / f"{style}.webp"
        build_atlas(read).save(path, lossless=True, quality=100, method=6)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
