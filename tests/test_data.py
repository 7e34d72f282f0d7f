"""Images as arrays and files: what a data set gives, which files are read, and what is said of those that cannot be."""

import inspect
import json

import numpy as np
import pytest
from PIL import Image

import purimetry as pm
from purimetry.compression.data.dataset import Bytes, DataError, DataMissing, only_test
from purimetry.compression.data.image_folder import Files

RNG = np.random.default_rng(0)
STORED = RNG.integers(0, 256, (7, 3, 4, 3), np.uint8)


@pytest.mark.parametrize("index", [
    2, -1, slice(1, 5), slice(None, None, -2), [3, 3, 0], np.array([[0, 1], [2, 3]]), np.arange(7) % 2 == 0,
    np.arange(0),
], ids=repr)
def test_images_made_part_by_part_are_indexed_as_their_array_is(index):
    pixels = STORED.astype(np.float32) / 255
    found = Bytes(STORED)[index]
    assert found.dtype == np.float32 and np.array_equal(found, pixels[index])


def test_images_made_part_by_part_become_an_array_where_one_is_needed():
    images = Bytes(STORED)
    assert (len(images), images.shape, images.dtype) == (7, STORED.shape, np.float32)
    assert np.array_equal(np.asarray(images), images[:]) and np.asarray(images, np.float64).dtype == np.float64
    assert np.array_equal(pm.over_images(lambda x: x, (), images), images[:])


def test_an_image_that_is_not_there_is_an_error():
    with pytest.raises(IndexError):
        Bytes(STORED)[7]


def test_fingerprints_follow_pixels_labels_and_shapes():
    data = only_test("some", Bytes(STORED), np.arange(7))
    changed = STORED.copy()
    changed[6, 2, 3, 2] ^= 1
    others = (
        data._replace(test_images=Bytes(changed)), data._replace(test_labels=np.arange(7, dtype=np.int32)[::-1]),
        data._replace(test_images=Bytes(STORED.reshape(7, 4, 3, 3))), data._replace(test_images=data.test_images[:]),
    )
    assert len({each.fingerprint for each in (data, *others)}) == 5
    assert data.fingerprint == only_test("other name", Bytes(STORED.copy()), np.arange(7)).fingerprint
    assert data.classes == 7


def test_the_digits_keep_the_fingerprint_that_names_trained_weights():
    assert pm.digits().fingerprint == "a6eaaabf7f70ce4704506e34c104d2886558d65fe805a6445711546750b7332c"


def test_a_subset_is_the_first_images_or_a_nested_random_choice():
    data = only_test("some", np.zeros((50, 1, 1, 1), np.float32), np.arange(50))
    assert data.subset(5).tolist() == [0, 1, 2, 3, 4]
    chosen = data.subset(20, seed=3)
    assert np.array_equal(chosen[:5], data.subset(5, seed=3)) and len(set(chosen)) == 20
    assert not np.array_equal(chosen, data.subset(20, seed=4))
    assert sorted(data.subset(50, seed=3)) == list(range(50))
    for n in (0, 51):
        with pytest.raises(ValueError, match=f"some has 50 test images, got {n}; ask for 1 to as many"):
            data.subset(n)


def test_an_npz_holds_bytes_or_pixels(tmp_path):
    np.savez(tmp_path / "bytes.npz", images=STORED, labels=np.arange(7, dtype=np.uint8))
    np.savez(tmp_path / "pixels.npz", images=STORED / 255, labels=np.arange(7))
    whole, floating = pm.npz(tmp_path / "bytes.npz"), pm.npz(str(tmp_path / "pixels.npz"))
    assert (whole.name, whole.shape, whole.classes, len(whole.train_images)) == ("bytes", (3, 4, 3), 7, 0)
    assert whole.test_labels.dtype == floating.test_labels.dtype == np.int32
    assert floating.test_images.dtype == np.float32
    assert np.allclose(whole.test_images[:], floating.test_images, rtol=0, atol=1e-7)  # float32 of [0, 1]


@pytest.mark.parametrize("arrays, message", [
    ({"images": STORED}, "lacks images or labels: labels is not a file"),
    ({"images": STORED, "labels": np.arange(6)}, "labels must have shape"),
    ({"images": STORED, "labels": np.arange(7.0)}, "labels must be integers"),
    ({"images": STORED.astype(np.int32), "labels": np.arange(7)}, "divide integer pixels by 255"),
    ({"images": STORED.astype(np.float32), "labels": np.arange(7)}, "must lie in"),
    ({"images": STORED.transpose(0, 3, 1, 2), "labels": np.arange(7)}, "transpose"),
    ({"images": STORED[:0], "labels": np.arange(0)}, "at least one image"),
    ({"images": np.array([{}]), "labels": np.arange(1)}, "cannot be read as .npz of numbers"),
], ids=["no labels", "too few", "floating labels", "int32", "0..255 floating", "channels first", "empty", "objects"])
def test_an_npz_of_anything_else_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "some.npz", **arrays)
    with pytest.raises(DataError, match=message):
        pm.npz(tmp_path / "some.npz")


def test_what_is_no_npz_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("images")
    np.save(tmp_path / "array.npy", STORED)
    for path in (tmp_path / "text.npz", tmp_path / "array.npy", tmp_path / "none.npz"):
        with pytest.raises(DataError, match=f"{path.name} cannot be read"):
            pm.npz(path)


def write(path, pixels, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def test_folders_are_classes_in_the_order_of_their_names(tmp_path):
    for file in ("b/2.png", "b/1.PNG", "d/deep/3.jpg", "d/note.txt"):
        write(tmp_path / file, np.zeros((8, 8, 3), np.uint8)) if file[-3:] != "txt" else (tmp_path / file).touch()
    (tmp_path / "a").mkdir()
    data = pm.image_folder(tmp_path, size=4, resize=6)
    assert [path.name for path in data.test_images.paths] == ["1.PNG", "2.png", "3.jpg"]
    assert data.test_labels.tolist() == [1, 1, 2]
    assert (data.name, data.shape, len(data.train_images)) == (tmp_path.name, (4, 4, 3), 0)


def test_the_centre_of_an_image_that_needs_no_resizing_is_kept_exactly(tmp_path):
    pixels = RNG.integers(0, 256, (6, 9, 3), np.uint8)
    write(tmp_path / "a/wide.png", pixels)
    write(tmp_path / "a/z_high.png", pixels.transpose(1, 0, 2))
    wide, high = pm.image_folder(tmp_path, size=4, resize=6).test_images[:]
    assert np.array_equal(wide, pixels[1:5, 2:6].astype(np.float32) / 255)  # (9 - 4) / 2 rounds to the even 2
    assert np.array_equal(high, wide.transpose(1, 0, 2))


def test_a_ramp_stays_a_ramp_when_it_is_resized(tmp_path):
    """Bilinear filtering keeps linear functions; the slope doubles, and the middle stays the middle."""
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8)[:, None], (40, 1, 3)).reshape(40, 60, 3)
    write(tmp_path / "a/ramp.png", ramp)
    (found,) = 255 * pm.image_folder(tmp_path, size=10, resize=20).test_images[:]
    assert np.abs(found - (118 + 8 * (np.arange(10) - 4.5))[None, :, None]).max() <= 1  # rounding of pixels


def test_a_folder_whose_images_are_all_smaller_is_refused(tmp_path):
    """One that is large enough shows that their size is meant, as ImageNet has a few small ones."""
    write(tmp_path / "a/0.png", np.zeros((40, 60, 3), np.uint8))
    (tmp_path / "a/1.png").write_text("no image")
    write(tmp_path / "b/2.png", np.zeros((50, 50, 3), np.uint8))
    with pytest.raises(DataError, match="sides of 40 to 50 pixels and would be enlarged to 256; give 50 or less, by"):
        pm.image_folder(tmp_path)
    with pytest.raises(DataError, match="enlarged to 60; give 50 or less"):
        pm.image_folder(tmp_path, size=50, resize=60)
    assert pm.image_folder(tmp_path, size=50).test_images[[0, 2]].shape == (2, 50, 50, 3)


def test_scripts_and_runs_take_images_of_one_size():
    from purimetry.experiments.configuration import Configuration

    assert inspect.signature(pm.image_folder).parameters["size"].default == Configuration().image_size


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_every_mode_come_in_colour(tmp_path, mode):
    write(tmp_path / "a/white.tif", np.full((8, 8, 3), 255, np.uint8), mode)
    assert (pm.image_folder(tmp_path, size=4, resize=8).test_images[:] == 1).all()


def test_only_files_that_are_asked_for_are_decoded_and_all_damaged_ones_are_named(tmp_path):
    for name in "pqrs":
        write(tmp_path / f"a/{name}.png", RNG.integers(0, 256, (8, 8, 3), np.uint8))
    (tmp_path / "a/q.png").write_bytes((tmp_path / "a/q.png").read_bytes()[:100])
    (tmp_path / "a/r.png").write_text("no image")
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "a/t.png")
    for name, side in {"u": 10_000, "v": 20_000}.items():  # of which Pillow warns, and which it refuses
        write(tmp_path / f"a/{name}.bmp", np.zeros((8, 8, 3), np.uint8))
        header = (tmp_path / f"a/{name}.bmp").read_bytes()
        (tmp_path / f"a/{name}.bmp").write_bytes(header[:18] + 2 * side.to_bytes(4, "little") + header[26:])
    images = pm.image_folder(tmp_path, size=4, resize=8).test_images
    assert images[[0, 3]].shape == (2, 4, 4, 3)
    with pytest.raises(DataError, match="cannot decode 5 image") as caught:
        images[:]
    named = ("q.png", "r.png", "t.png", "u.bmp", "v.bmp")
    assert all(name in str(caught.value) for name in named) and "p.png" not in str(caught.value)
    assert "more than 8 bits a channel" in str(caught.value) and "(100000000 pixels) exceeds" in str(caught.value)


def test_the_fingerprint_of_files_follows_their_bytes_and_what_is_made_of_them(tmp_path):
    write(tmp_path / "a/x.png", STORED[0])
    first = pm.image_folder(tmp_path, size=2, resize=3).fingerprint
    assert first == pm.image_folder(tmp_path, size=2, resize=3).fingerprint
    assert first != pm.image_folder(tmp_path, size=1, resize=3).fingerprint
    write(tmp_path / "a/x.png", STORED[1])
    assert first != pm.image_folder(tmp_path, size=2, resize=3).fingerprint


def test_a_list_of_labels_gives_files_and_order(tmp_path):
    for name in ("x", "y", "z"):
        write(tmp_path / f"{name}.png", STORED[0])
    (tmp_path / "labels.csv").write_text("file,label\nz.png,281\nx.png,7\n")
    data = pm.image_folder(tmp_path, size=2, resize=3)
    assert [path.name for path in data.test_images.paths] == ["z.png", "x.png"]
    assert data.test_labels.tolist() == [281, 7]


@pytest.mark.parametrize("text, message", [
    ("name,class\nx.png,1\n", "expected the heading file,label, got name,class"),
    ("file,label\nx.png,cat\nx.png,-1\nx.png\n", "class numbers from 0, got x.png,cat; x.png,-1; x.png,"),
    ("file,label\nx.png,1\nu.png,2\nv.png,2\n", r"2 file\(s\) that are not there: .*u.png, .*v.png"),
    ("file,label\n", "lists no images"),
])
def test_a_list_of_labels_that_does_not_match_its_files_is_refused(tmp_path, text, message):
    write(tmp_path / "x.png", STORED[0])
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        pm.image_folder(tmp_path)


def test_a_folder_without_images_is_said(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataMissing, match="expected a folder a class"):
            pm.image_folder(folder)
    with pytest.raises(ValueError, match="the crop must fit"):
        Files([], size=5, resize=4)


def test_a_run_names_its_images_and_is_refused_where_one_on_other_data_lies(tmp_path, monkeypatch):
    from purimetry.experiments import datasets, workbench
    from purimetry.experiments.configuration import Configuration

    data = only_test("digits", Bytes(STORED), np.arange(7))
    data = data._replace(train_images=data.test_images, train_labels=data.test_labels)  # a run may have to train
    monkeypatch.setitem(datasets.DATASETS, "digits", lambda folder: data)
    configuration = Configuration(out=tmp_path, images=4, subset_seed=1)
    bench = workbench.Workbench(configuration)
    written = json.loads((tmp_path / "images.json").read_text())
    assert written == {"dataset": "digits", "split": "test", "indices": data.subset(4, seed=1).tolist()}
    assert np.array_equal(bench.images, data.test_images[written["indices"]])
    data = data._replace(test_images=Bytes(255 - STORED))
    with pytest.raises(ValueError, match=r"other settings \(data_sha256\)"):
        workbench.Workbench(configuration)
