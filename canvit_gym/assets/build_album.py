"""Rebuild the album of photographs in `assets/album` from packages whose licences allow it.

The album is committed, so this runs only when a photograph is added or a source is updated:

    apt-get download gcompris-qt-data                # Debian 12: 3.1-2
    dpkg -x gcompris-qt-data_*.deb gcompris          # gcompris/usr/share/gcompris-qt/rcc/
    pip download --no-deps scikit-image==0.26.0
    pip install '.[teachers]'                        # the teacher that must know each photograph

    python -m canvit_gym.assets.build_album \\
        --gcompris gcompris/usr/share/gcompris-qt/rcc --skimage scikit_image-0.26.0-*.whl

A photograph becomes a square JPEG of its centre, at most 256 px a side, with a licence file beside
it and a row in `album.json`. What its author allows is read from the README that GCompris keeps
beside its pictures, and only what is in `LICENCES` is taken. Each photograph must be among the five
classes that the teacher finds most probable.
"""

import argparse
import hashlib
import io
import re
import struct
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from canvit_gym.files import write_bytes, write_json, write_text
from canvit_gym.preprocess import preprocess_picture
from canvit_gym.scenes.imagenet import CLASS_NAMES, LABEL_OF_WNID
from canvit_gym.training.teachers import load_teacher

SIDE_PX, QUALITY = 256, 90

LICENCES = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "Public Domain": "no rights are claimed; see the source",
}

# file name in the album -> (wnid, resource file of GCompris, picture in it)
GCOMPRIS = {
    "hen": ("n01514859", "explore_farm_animals", "animals/chicken"),
    "chameleon": ("n01694178", "erase", "resource/chamaeleon"),
    "komodo_dragon": ("n01695060", "explore_world_animals", "animals/dragon"),
    "macaw": ("n01818515", "explore_world_animals", "animals/scarlet_macaw"),
    "koala": ("n01882714", "explore_world_animals", "animals/koala"),
    "german_shepherd": ("n02106662", "explore_farm_animals", "animals/dog"),
    "jaguar": ("n02128925", "explore_world_animals", "animals/jaguar"),
    "polar_bear": ("n02134084", "explore_world_animals", "animals/polar_bear"),
    "hog": ("n02395406", "explore_farm_animals", "animals/pig"),
    "bison": ("n02410509", "explore_world_animals", "animals/bison"),
    "gibbon": ("n02483362", "erase", "resource/gibbon"),
    "ring_tailed_lemur": ("n02497673", "explore_world_animals", "animals/lemur"),
    "red_panda": ("n02509815", "erase", "resource/red_panda"),
    "giant_panda": ("n02510455", "explore_world_animals", "animals/panda"),
    "baseball": ("n02799071", "categorization", "others/baseball"),
    "bucket": ("n02909870", "categorization", "others/bucket"),
    "castle": ("n02980441", "explore_monuments", "france/citedeCarcassonne"),
    "church": ("n03028079", "explore_monuments", "germany/berlinCathedral"),
    "cliff_dwelling": ("n03042490", "explore_monuments", "usa/navajo"),
    "dam": ("n03160309", "categorization", "renewable/dam1"),
    "dome": ("n03220513", "categorization", "monuments/monument1"),
    "frying_pan": ("n03400231", "categorization", "others/pan"),
    "hammer": ("n03481172", "categorization", "tools/hammer8"),
    "mosque": ("n03788195", "explore_monuments", "india/charminar"),
    "palace": ("n03877845", "explore_monuments", "india/hawaMahal"),
    "scale": ("n04141975", "categorization", "others/weighingMachine"),
    "screwdriver": ("n04154565", "categorization", "tools/screwDriver1"),
    "stupa": ("n04346328", "explore_monuments", "india/greatStupa"),
    "triumphal_arch": ("n04486054", "categorization", "monuments/arcDeTriomphe"),
    "volleyball": ("n04540053", "categorization", "others/volleyball"),
}

# file name in the album -> (wnid, picture in scikit-image's data, photographer), as the docstrings
# of skimage.data say: "No copyright restrictions. CC0 by the photographer".
SKIMAGE = {
    "tabby": ("n02123045", "chelsea", "Stefan van der Walt"),
    "espresso": ("n07920052", "coffee", "Rachel Michetti"),
}


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """A photograph in a package: its class, the bytes of its file, and what may be done with it."""

    name: str
    label: int
    data: bytes
    author: str
    licence: str
    source: str
    package: str


def resources(path: Path) -> dict[str, bytes]:
    """The files in a Qt resource file, by their paths."""
    data = path.read_bytes()
    magic, version, tree, contents, names = struct.unpack(">4sIIII", data[:20])
    if magic != b"qres" or version not in (2, 3):
        raise ValueError(f"{path} is no Qt resource file of version 2 or 3; give GCompris's own.")
    found: dict[str, bytes] = {}

    def walk(node: int, folder: str) -> None:
        entry = tree + 22 * node
        at, flags = struct.unpack(">IH", data[entry : entry + 6])
        length = struct.unpack(">H", data[names + at : names + at + 2])[0]
        text = data[names + at + 6 : names + at + 6 + 2 * length].decode("utf-16-be")
        here = f"{folder}/{text}" if node else folder
        if flags & 2:  # a folder
            count, first = struct.unpack(">II", data[entry + 6 : entry + 14])
            for child in range(first, first + count):
                walk(child, here)
        else:
            start = contents + struct.unpack(">I", data[entry + 10 : entry + 14])[0]
            size = struct.unpack(">I", data[start : start + 4])[0]
            stored = data[start + 4 : start + 4 + size]
            found[here] = zlib.decompress(stored[4:]) if flags & 1 else stored

    walk(0, "")
    return found


def credit(readme: str, picture: str) -> dict[str, str]:
    """What a README of GCompris says of a picture: Copyright, License and Source."""
    for paragraph in re.split(r"\n\s*\n", readme):
        fields = dict(re.findall(r"^(Copyright|License|Source):\s*(.+?)\s*$", paragraph, re.M))
        if re.search(rf"^(Files: )?{re.escape(picture)}\.webp$", paragraph, re.M):
            return fields
    raise ValueError(f"The README says nothing of {picture}; choose another picture.")


def from_gcompris(folder: Path) -> list[Photograph]:
    photographs = []
    for name, (wnid, resource, picture) in GCOMPRIS.items():
        files = resources(folder / f"{resource}.rcc")
        path = next(path for path in files if path.endswith(f"/{picture}.webp"))
        beside = path.rpartition("/")[0]
        while f"{beside}/README" not in files:
            beside = beside.rpartition("/")[0]
        said = credit(files[f"{beside}/README"].decode(), path[len(beside) + 1 : -len(".webp")])
        photographs.append(
            Photograph(
                name=name,
                label=LABEL_OF_WNID[wnid],
                data=files[path],
                author=said["Copyright"],
                licence=said["License"],
                source=said["Source"],
                package=f"GCompris 3.1 (Debian gcompris-qt-data 3.1-2), {path.rpartition('/')[2]}",
            )
        )
    return photographs


def from_skimage(wheel: Path) -> list[Photograph]:
    with zipfile.ZipFile(wheel) as archive:
        return [
            Photograph(
                name=name,
                label=LABEL_OF_WNID[wnid],
                data=archive.read(f"skimage/data/{picture}.png"),
                author=author,
                licence="CC0-1.0",
                source=f"https://scikit-image.org/docs/stable/api/skimage.data.html, {picture}",
                package=f"scikit-image 0.26.0 (PyPI), skimage/data/{picture}.png",
            )
            for name, (wnid, picture, author) in SKIMAGE.items()
        ]


def square(data: bytes) -> bytes:
    """The centre of a picture as JPEG, scaled down to SIDE_PX where it is larger."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = preprocess_picture(image, min(SIDE_PX, *image.size))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY, optimize=True, progressive=True)
    return file.getvalue()


def licence_text(photograph: Photograph) -> str:
    return (
        f"{photograph.name}.jpg: {CLASS_NAMES[photograph.label]}\n\n"
        f"Author: {photograph.author}\n"
        f"Licence: {photograph.licence} ({LICENCES[photograph.licence]})\n"
        f"Source: {photograph.source}\n"
        f"Taken from: {photograph.package}\n"
        f"Changes: cropped to its central square, scaled to at most {SIDE_PX} px a side, saved as"
        " JPEG\n"
    )


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Album\n",
        f"{len(rows)} photographs of as many classes of ImageNet-1k, none of them from ImageNet:"
        " what `CanViT-IN1k-v0` shows where no scenes are given. They are for trying things out,"
        " and far too few to judge anything by.\n",
        "| photograph | class | author | licence | teacher's top five |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        top = ", ".join(f"{CLASS_NAMES[label]} {prob:.2f}" for label, prob in row["teacher_top5"])
        lines.append(
            f"| [{row['name']}]({row['source'].partition(', ')[0]}) | {CLASS_NAMES[row['label']]} "
            f"({row['label']}) | {row['author']} | {row['licence']} | {top} |"
        )
    lines += [
        "",
        "`LICENSE-<photograph>.txt` says of each where it is from and what was changed. The teacher"
        " is EfficientNet-Lite0, at 256 px; `album.json` has the same as data."
        " `python -m canvit_gym.assets.build_album --help` says how to build the album again.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gcompris", type=Path, required=True, help="folder of its .rcc files")
    parser.add_argument("--skimage", type=Path, required=True, help="scikit-image's wheel")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "album")
    arguments = parser.parse_args()

    teacher = load_teacher("efficientnet-lite0")
    assert teacher.classifier is not None
    weight, bias = teacher.classifier
    rows = []
    found = [*from_gcompris(arguments.gcompris), *from_skimage(arguments.skimage)]
    for photograph in sorted(found, key=lambda each: each.label):
        if photograph.licence not in LICENCES:
            raise ValueError(f"{photograph.name} is {photograph.licence}, which is not taken.")
        jpeg = square(photograph.data)
        with Image.open(io.BytesIO(jpeg)) as image:
            pixels = torch.from_numpy(preprocess_picture(image, SIDE_PX))
        with torch.no_grad():
            logits = teacher(pixels[None]).cls @ weight.T + bias
        probs, labels = logits[0].softmax(0).topk(5)
        found_labels = [int(label) for label in labels]
        top = list(zip(found_labels, (round(float(prob), 4) for prob in probs), strict=True))
        if photograph.label not in found_labels:
            names = ", ".join(f"{CLASS_NAMES[label]} {prob}" for label, prob in top)
            raise ValueError(f"{photograph.name} is not among the teacher's top five: {names}.")
        write_bytes(arguments.out / f"{photograph.name}.jpg", jpeg)
        write_text(arguments.out / f"LICENSE-{photograph.name}.txt", licence_text(photograph))
        row = {k: v for k, v in asdict(photograph).items() if k != "data"}
        rows.append({**row, "sha256": hashlib.sha256(jpeg).hexdigest(), "teacher_top5": top})
        print(f"{photograph.name}.jpg: {len(jpeg) / 1024:.0f} KiB, {CLASS_NAMES[top[0][0]]} first")
    write_json(arguments.out / "album.json", {"photographs": rows})
    write_text(arguments.out / "README.md", table(rows))


if __name__ == "__main__":
    main()
