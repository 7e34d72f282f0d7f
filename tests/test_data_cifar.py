"""CIFAR in each of its published versions, what is said of broken ones, and that no pickle of theirs runs anything."""

import io
import os
import pickle
import re
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

import purimetry as pm
from purimetry.compression.data.dataset import DataError, DataMissing
from purimetry.compression.data.restricted_pickle import read_pickle

TRAIN = [f"data_batch_{number}" for number in range(1, 6)]
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 3, 32, 32), np.uint8)
LABELS = np.arange(12) % 10
BATCHES = {name: slice(2 * i, 2 * i + 2) for i, name in enumerate([*TRAIN, "test_batch"])}


def records(part: slice, coarse: int | None = None) -> bytes:
    """The binary version: label bytes and the pixels, channel by channel."""
    first = b"" if coarse is None else bytes([coarse])
    pairs = zip(IMAGES[part], LABELS[part], strict=True)
    return b"".join(first + bytes([label]) + image.tobytes() for image, label in pairs)


def python2(part: slice, name: str = "labels") -> bytes:
    """The python version, opcode by opcode as Python 2's cPickle wrote the official files."""
    rows, text = IMAGES[part].reshape(-1, 3072), lambda word: b"U" + bytes([len(word)]) + word.encode()
    reconstruct = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text("b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text("u1") + b"K\x00K\x01\x87R(K\x03" + text("|") + b"NNN" + 2 * b"J\xff\xff\xff\xff"
    state = b"(K\x01K" + bytes([len(rows)]) + b"M" + struct.pack("<H", 3072) + b"\x86" + dtype + b"K\x00tb\x89"
    array = reconstruct + state + b"T" + struct.pack("<I", rows.size) + rows.tobytes() + b"tb"
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in LABELS[part]) + b"e"
    return b"\x80\x02}(" + text("data") + array + text(name) + labels + b"u."


def python3(part: slice, name: str = "labels") -> bytes:
    """The same written by a Python of today."""
    return pickle.dumps({"data": IMAGES[part].reshape(-1, 3072), name: LABELS[part].tolist()}, protocol=2)


def labelled(labels) -> bytes:
    return pickle.dumps({"data": IMAGES[:2].reshape(-1, 3072), "labels": labels}, protocol=2)


VERSIONS = {
    "binary": ("cifar-10-batches-bin", {f"{name}.bin": records(part) for name, part in BATCHES.items()}),
    "python 2": ("cifar-10-batches-py", {name: python2(part) for name, part in BATCHES.items()}),
    "python 3": ("cifar-10-batches-py", {name: python3(part) for name, part in BATCHES.items()}),
}


def unpack(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def pack(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def check(data: pm.Dataset) -> None:
    pixels = IMAGES.transpose(0, 2, 3, 1).astype(np.float32) / 255
    assert data.train_images.shape == (10, 32, 32, 3) and data.test_images.shape == (2, 32, 32, 3)
    assert np.array_equal(data.train_images[:], pixels[:10]) and np.array_equal(data.test_images[:], pixels[10:])
    assert data.train_labels.dtype == np.int32
    assert np.array_equal(data.train_labels, LABELS[:10]) and np.array_equal(data.test_labels, LABELS[10:])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_gives_the_same_data_packed_or_not(tmp_path, version):
    name, files = VERSIONS[version]
    archive = name.replace("batches-bin", "binary").replace("batches-py", "python") + ".tar.gz"
    folder, packed = unpack(tmp_path / "unpacked" / name, files), pack(tmp_path / archive, name, files)
    found = [pm.cifar10(place) for place in (folder, folder.parent, packed, str(packed.parent))]
    check(found[0])
    expected = pm.cifar10(unpack(tmp_path / "cifar-10-batches-bin", VERSIONS["binary"][1])).fingerprint
    assert {data.fingerprint for data in found} == {expected}


@pytest.mark.parametrize("name, files", [
    ("cifar-100-binary", {"train.bin": records(slice(10), 19), "test.bin": records(slice(10, 12), 19)}),
    ("cifar-100-python", {"train": python2(slice(10), "fine_labels"), "test": python2(slice(10, 12), "fine_labels")}),
])
def test_cifar100_has_its_fine_labels(tmp_path, name, files):
    check(pm.cifar100(unpack(tmp_path / name, files)))
    check(pm.cifar100(pack(tmp_path / f"{name}.tar.gz", name, files)))


def test_nothing_of_an_archive_is_written_and_links_are_not_followed(tmp_path):
    name, files = VERSIONS["binary"]
    path = tmp_path / "cifar-10-binary.tar.gz"
    pack(path, name, {f"../../{name}/escaped": b"x", **files})
    before = sorted(tmp_path.parent.rglob("*"))
    check(pm.cifar10(path))
    assert sorted(tmp_path.parent.rglob("*")) == before
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo(f"{name}/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match="lacks data_batch_1.bin, .*test_batch.bin"):
        pm.cifar10(path)


def test_what_is_missing_is_named_with_what_is_there(tmp_path):
    unpack(tmp_path / "cifar-100-binary", {})
    with pytest.raises(DataMissing, match="expected cifar-10-batches-bin, .* it holds cifar-100-binary; get it by"):
        pm.cifar10(tmp_path)
    name, files = VERSIONS["binary"]
    unpack(tmp_path / name, {file: content for file, content in files.items() if file != "data_batch_3.bin"})
    with pytest.raises(DataError, match="lacks data_batch_3.bin of cifar-10-batches-bin"):
        pm.cifar10(tmp_path)
    other = pack(tmp_path / "cifar-10-binary.tar.gz", "cifar-100-binary", {"train.bin": b"", "test.bin": b""})
    with pytest.raises(DataError, match="it holds cifar-100-binary/test.bin, cifar-100-binary/train.bin"):
        pm.cifar10(other)


@pytest.mark.parametrize("file, content, message", [
    ("data_batch_2.bin", records(slice(2))[:-1], "records of 3073 bytes, got 6145 bytes in all"),
    ("test_batch.bin", b"", "records of 3073 bytes, got 0 bytes in all"),
    ("test_batch.bin", records(slice(1)) + b"\x0a" + bytes(3072), "labels 0..9, got 0..10"),
])
def test_a_broken_file_is_named(tmp_path, file, content, message):
    name, files = VERSIONS["binary"]
    unpack(tmp_path / name, {**files, file: content})
    with pytest.raises(DataError, match=f"{file}: expected {message}; it is damaged or not of cifar10"):
        pm.cifar10(tmp_path)


@pytest.mark.parametrize("content, message", [
    (pickle.dumps({"data": [1], "fine_labels": []}, protocol=2), r"dict with 'data' and 'labels', got \['data', "),
    (pickle.dumps([1], protocol=2), "got list"),
    (pickle.dumps({"data": IMAGES[:2], "labels": [1, 2]}, protocol=2), r"2 x 3072 bytes, got \(2, 3, 32, 32\)"),
    (pickle.dumps({"data": "text", "labels": [1, 2]}, protocol=2), "2 x 3072 bytes, got text"),
    (python2(slice(2))[:-100], "not a pickle of plain data"),
    *((labelled(labels), rf"expected 'labels' to be a list of class numbers, got {re.escape(shown)}; .*get it again")
      for labels, shown in [
          ([1.7, 2.9], "[1.7, 2.9]"), (["a", "b"], "['a', 'b']"), ([[1, 2], [3]], "[[1, 2], [3]]"), (3, "3"),
          ([[1], [2]], "[[1], [2]]"), ([True, False], "[True, False]"), ([1, None], "[1, None]"), ([], "[]"),
          ([1, 10**20], "[1, 100000000000000000000]"), (np.array([1.0, 2.0]), "array([1., 2.])"), ("12", "'12'"),
      ]),
    *((labelled(labels), "expected labels 0..9, got " + shown) for labels, shown in [
        ([4294967299, 1], "1..4294967299"), (np.uint64([2**63, 1]), "1..9223372036854775808"), ([-1, 1], "-1..1")]),
])
def test_a_pickle_of_something_else_is_named(tmp_path, content, message):
    unpack(tmp_path / "cifar-10-batches-py", {**VERSIONS["python 2"][1], "test_batch": content})
    with pytest.raises(DataError, match=f"test_batch: .*{message}"):
        pm.cifar10(tmp_path)


def test_a_truncated_archive_is_said_to_be_one(tmp_path):
    path = pack(tmp_path / "cifar-10-binary.tar.gz", *VERSIONS["binary"])
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], whole[:2000] + b"damage" + whole[2006:], b"<html>", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match="truncated or damaged .*; delete it and get it again"):
            pm.cifar10(tmp_path)


class Harmful:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def changed(of: bytes, old: bytes, new: bytes) -> bytes:
    assert old in of
    return of.replace(old, new)


def doubled(around, depth):
    return around(doubled(around, depth - 1)) if depth else []


TWICE = b"q\x00h\x00\x86"  # what was made last becomes the tuple of itself and itself
AGAIN = "refers to a list, tuple or dict again"
MARK = "PURIMETRY_TEST_HARM"
ARRAY = pickle.dumps(np.arange(3, dtype=np.int64), protocol=2)
HARMFUL = {
    "a command": (pickle.dumps(Harmful(os.system, "exit 3")), "names (posix|nt).system"),
    "eval": (pickle.dumps(Harmful(eval, f"__import__('os').environ.update({MARK}='1')")), "names builtins.eval"),
    "eval, Python 2": (pickle.dumps(Harmful(eval, "1"), protocol=2), "names __builtin__.eval"),
    "an object": (pickle.dumps(Path("x")), "names pathlib"),
    "a class": (pickle.dumps(dict), "names builtins.dict"),
    "NumPy's own loader": (b"cnumpy\nload\n(S'x'\ntR.", "names numpy.load"),
    "a name with dots": (b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.", "names numpy.dtype.__init__"),
    "objects in an array": (pickle.dumps(np.array([{}, {}]), protocol=2), "an array of 'O8'"),
    "pointers from bytes": (changed(ARRAY, b"i8", b"O8"), "an array of 'O8'"),
    "another codec": (b"c_codecs\nencode\n(VAAAA\nVhex\ntR.", "encodes text as 'hex'"),
    "a longer array": (changed(ARRAY, b"K\x03\x85", b"K\x09\x85"), "reshape"),
    "an array without content": (b"cnumpy.core.multiarray\n_reconstruct\n(N(tNtR.", "of type _Array"),
    "a function itself": (b"c_codecs\nencode\n.", "of type method"),
    "a set": (pickle.dumps({1}, protocol=4), "of type set"),
    "persistent ids": (b"Px\n.", "persistent"),
    "a list in itself": (pickle.dumps((lambda own: own.append(own) or own)([])), AGAIN),
    "lists of one list twice, and so on": (pickle.dumps(doubled(lambda inner: [inner, inner], 40), protocol=2), AGAIN),
    "dicts of one dict twice": (pickle.dumps(doubled(lambda inner: {1: inner, 2: inner}, 40), protocol=2), AGAIN),
    "such a key of a dict": (b"}K\x01" + 40 * TWICE + b"Ns.", AGAIN),
    "such a type of elements": (b"cnumpy\ndtype\n(]" + 40 * TWICE + b"K\x00K\x01tR.", AGAIN),
    "such a list without numbers": (b"]" + 40 * b"2\x86" + b".", AGAIN),
    "nothing": (b"", "exhausted"),
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_no_pickle_runs_or_makes_anything_but_plain_data(kind):
    content, message = HARMFUL[kind]
    with pytest.raises(DataError, match=f"(?s)not a pickle of plain data.*({message})"):
        read_pickle(content)
    assert MARK not in os.environ


def test_a_pickle_cannot_change_what_the_next_one_meets():
    """BUILD sets attributes of what it is given: here of each stand-in itself."""
    for name in (b"_codecs\nencode", b"numpy\ndtype", b"numpy\nndarray", b"numpy.core.multiarray\n_reconstruct"):
        for state in (b"}S'value'\nI1\ns", b"(N}S'__defaults__'\n(I1\nI2\nttsb"):
            with pytest.raises(DataError):
                read_pickle(b"c" + name + b"\n" + state + b"b.")
    assert read_pickle(ARRAY).tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", [0, 1, 2])
@pytest.mark.parametrize("value", [
    {"a": [1, 2.5, None, True], b"b": ("x", b"\xff\x00", -(10**30))},
    np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(True),
], ids=["containers", "big endian", "column by column", "no axes"])
def test_plain_data_comes_back_as_it_was(value, protocol):
    found = read_pickle(pickle.dumps(value, protocol=protocol))
    if isinstance(value, dict):
        assert found == value
    else:
        assert type(found) is np.ndarray and found.dtype == value.dtype and np.array_equal(found, value)


@pytest.mark.parametrize("read", [pm.cifar10, pm.cifar100])
def test_without_a_folder_it_is_that_of_the_environment(tmp_path, monkeypatch, read):
    monkeypatch.setenv("PURIMETRY_DATA", str(tmp_path))
    with pytest.raises(DataMissing, match=f"no {read.__name__} in {re.escape(str(tmp_path))}: "):
        read()
    monkeypatch.delenv("PURIMETRY_DATA")
    with pytest.raises(DataMissing, match="PURIMETRY_DATA is not set; give the folder that `purimetry data cifar10"):
        read()


def test_a_run_without_its_data_says_how_to_get_them(tmp_path, capsys):
    from purimetry.experiments.command_line import main

    options = ["--dataset", "cifar10", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["run", "training", *options]) == 1
    assert "get it by `purimetry data cifar10`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_real_cifar10_is_whole(real_cifar10):
    data = real_cifar10
    assert data.train_images.shape == (50_000, 32, 32, 3) and data.test_images.shape == (10_000, 32, 32, 3)
    assert (np.bincount(data.train_labels) == 5000).all() and (np.bincount(data.test_labels) == 1000).all()
    channels = data.train_images[:].mean((0, 1, 2), np.float64)
    assert np.allclose(channels, [0.4914, 0.4822, 0.4465], atol=1e-4)  # as the literature normalises by
