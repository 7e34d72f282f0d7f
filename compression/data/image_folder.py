"""Image files of one's own, in a folder a class or with a list of labels; decoded when they are asked for."""

import csv
import hashlib
import warnings
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from .dataset import DataError, DataMissing, Dataset, Images, only_test

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Files that are taken for images."""

LOOKED_AT = 32
"""Files of whose sizes it is told whether a folder's images are as large as they are asked for."""


class Files(Images):
    """Images of files, [n, size, size, 3].

    The shorter side becomes `resize` pixels (bilinear), and the central square of `size` is kept: the convention of
    ImageNet classifiers, to the pixel as torchvision's Resize and CenterCrop have it.
    """

    def __init__(self, paths: list[Path], size: int, resize: int):
        if not 1 <= size <= resize:
            raise ValueError(f"the crop must fit in the resized image, got size {size} and resize {resize}")
        self.paths, self.resize, self.shape = paths, resize, (len(paths), size, size, 3)

    @cached_property
    def identity(self) -> UInt8[np.ndarray, "n 32"]:
        """SHA-256 of each file, with what is made of it; reads every file once."""
        made = repr((self.shape[1:], self.resize)).encode()
        digests = [hashlib.sha256(made + path.read_bytes()).digest() for path in self.paths]
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)

    def pixels(self, indices: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k height width 3"]:
        """The images of these numbers; DataError with the names of all that cannot be decoded."""
        images, failed = np.empty((len(indices), *self.shape[1:]), np.float32), []
        for image, index in zip(images, indices, strict=True):
            try:
                image[:] = _decoded(self.paths[index], self.shape[1], self.resize)
            except _damaged() as error:
                failed.append(f"{self.paths[index]} ({error})")
        if failed:
            raise DataError(f"cannot decode {len(failed)} image(s), repair or remove them: {'; '.join(failed)}")
        return images


def image_folder(folder: Path | str, size: int = 256, resize: int | None = None) -> Dataset:
    """Test images of a folder of files, named as the folder is; read and decoded only when they are asked for.

    folder: has either `labels.csv`, whose rows `file,label` below this heading name files and class numbers and give
        the order; or one folder a class, numbered from 0 in the order of their names, empty ones included, as
        ImageNet has it. Images of classes follow each other, so take a random `Dataset.subset`.
    size, resize: pixels of the square that is kept, and of the shorter side before, the same unless told; 224 and 256
        are ImageNet's custom. Where some files are smaller, as of ImageNet, they are enlarged.

    Raises DataMissing for a folder without images, DataError for labels that do not match the files, or where each file
    (of the first LOOKED_AT) would be enlarged.
    """
    folder, resize = Path(folder), size if resize is None else resize
    labelled = _listed(folder / "labels.csv") if (folder / "labels.csv").is_file() else _by_class(folder)
    paths, labels = [path for path, _ in labelled], [label for _, label in labelled]
    _check_sides(folder, paths[:LOOKED_AT], resize)
    return only_test(folder.resolve().name, Files(paths, size, resize), labels)


def _check_sides(folder: Path, paths: list[Path], resize: int) -> None:
    sides = [side for side in map(_shorter_side, paths) if side is not None]
    if sides and (largest := max(sides)) < resize:
        raise DataError(f"images of {folder} have shorter sides of {min(sides)} to {largest} pixels and would "
                        f"be enlarged to {resize}; give {largest} or less, by size=N or --image-size N")


def _shorter_side(path: Path) -> int | None:
    """Of an image, by its file's first bytes; None where it cannot be decoded, which is said when it is to be."""
    from PIL import Image

    try:
        with _refusing_bombs(), Image.open(path) as image:
            return min(image.size)
    except _damaged():
        return None


def _refusing_bombs():
    from PIL import Image

    return warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning)


def _damaged() -> tuple[type[Exception], ...]:
    """What Pillow raises of files that it cannot decode, a SyntaxError for some, and of more pixels than it admits."""
    from PIL import Image

    return OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning


def _by_class(folder: Path) -> list[tuple[Path, int]]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = [
        (path, label) for label, home in enumerate(classes)
        for path in sorted(home.rglob("*")) if path.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise DataMissing(
            f"no images in {folder}: expected a folder a class with files {', '.join(SUFFIXES)}, or labels.csv with "
            "rows file,label below this heading"
        )
    return found


def _listed(path: Path) -> list[tuple[Path, int]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"file", "label"} <= set(rows.fieldnames or ()):
            raise DataError(f"{path}: expected the heading file,label, got {','.join(rows.fieldnames or ())}")
        found = [(path.parent / (row["file"] or ""), row["label"] or "") for row in rows]
    if not found:
        raise DataMissing(f"{path} lists no images; give each a row file,label")
    if wrong := [f"{image.name},{label}" for image, label in found if not label.isdecimal()]:
        raise DataError(f"{path}: labels must be class numbers from 0, got {'; '.join(wrong)}")
    if missing := [str(image) for image, _ in found if not image.is_file()]:
        raise DataError(f"{path} lists {len(missing)} file(s) that are not there: {', '.join(missing)}")
    return [(image, int(label)) for image, label in found]


def _decoded(path: Path, size: int, resize: int) -> Float[np.ndarray, "size size 3"]:
    from PIL import Image

    with _refusing_bombs(), Image.open(path) as image:
        if image.mode[0] in "IF":
            raise ValueError(f"more than 8 bits a channel (mode {image.mode}), convert it to 8")
        image = image.convert("RGB")
    width, height = (int(resize * side / min(image.size)) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    image = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    return np.asarray(image, np.float32) / 255
