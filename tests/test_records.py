"""Records: atomic, checked, resumable, and clear about what cannot be used."""

import errno
import itertools
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from purimetry.compression import records
from purimetry.compression.records import Folder, Measurement, RecordError, load_arrays, read_records, save_arrays
from purimetry.compression.weights import load_tree, save_tree

SETTINGS = {"images": 8}
ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([True, False])}


def test_measurements_come_back_as_they_were(tmp_path):
    folder = Folder(tmp_path / "out", SETTINGS)
    written = folder.write("rates", [Measurement("rates", "rate", 0.25, 0.01, 8, "ratio", {"t_star": 1}, {"seed": 0})])
    assert read_records(tmp_path / "out") == written == read_records(tmp_path / "out", "rates")
    line = json.loads((tmp_path / "out/rates/records.jsonl").read_text())
    assert set(line) == {"version", "experiment", "quantity", "value", "se", "n", "unit", "at", "run"}


def test_a_shard_is_computed_once_and_then_read(tmp_path):
    calls = []
    compute = lambda: calls.append(0) or ARRAYS
    for _ in range(2):
        found = Folder(tmp_path / "out", SETTINGS).shard("rates", "one", compute)
        for name in ARRAYS:
            np.testing.assert_array_equal(found[name], ARRAYS[name])
    assert len(calls) == 1


def test_shards_have_the_same_bytes_whenever_they_are_written(tmp_path):
    for name in ("one", "two"):
        save_arrays(tmp_path / name, ARRAYS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("damage", [
    lambda content: content[: len(content) // 2], lambda content: b"", lambda content: b"not a shard" * 10,
    lambda content: content.replace(np.float64(4.0).tobytes(), np.float64(5.0).tobytes()),
], ids=["truncated", "empty", "foreign", "flipped"])
def test_a_damaged_shard_is_computed_again_with_a_warning(tmp_path, damage):
    folder = Folder(tmp_path / "out", SETTINGS)
    folder.shard("rates", "one", lambda: ARRAYS)
    path = tmp_path / "out/rates/shards/one.npz"
    good = path.read_bytes()
    path.write_bytes(damage(good))
    with pytest.raises(RecordError):
        load_arrays(path)
    with pytest.warns(UserWarning, match="computing it again"):
        folder.shard("rates", "one", lambda: ARRAYS)
    assert path.read_bytes() == good


def test_content_that_parses_but_differs_fails_its_checksum(tmp_path):
    path = tmp_path / "one.npz"
    np.savez(path, sha256=np.array(records.digest(ARRAYS)), **{**ARRAYS, "a": ARRAYS["a"] + 1})
    with pytest.raises(RecordError, match="does not match its checksum"):
        load_arrays(path)


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "file"
    records.write_atomic(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(RecordError, match="No space left on device; make room .* run the same command again"):
        records.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_costs_of_a_killed_process_and_of_a_file_that_cannot_be_written(tmp_path, monkeypatch):
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)  # a second between two looks
    monkeypatch.setattr(records, "time", clock)
    folder, costs = Folder(tmp_path / "out", SETTINGS), tmp_path / "out/cost.jsonl"
    folder.shard("rates", "one", lambda: ARRAYS)
    costs.write_text(costs.read_text() + '{"experiment": "rates", "sec')
    folder.shard("rates", "two", lambda: ARRAYS)
    assert len(costs.read_text().splitlines()) == 3 and records.read_costs(tmp_path / "out") == {"rates": 2}
    costs.unlink()
    costs.mkdir()
    with pytest.raises(RecordError, match="cannot write .*cost.jsonl: .* run the same command again"):
        folder.shard("rates", "three", lambda: ARRAYS)


def test_a_process_killed_in_its_first_write_leaves_a_folder_that_can_be_used(tmp_path):
    (tmp_path / ".run.json.ab12cd").write_text("{")
    Folder(tmp_path, SETTINGS)
    assert records.read_manifest(tmp_path)["configuration"] == SETTINGS


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot write .* choose a writable folder"):
        Folder(tmp_path / "file" / "out", SETTINGS)


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RecordError, match="is not a run of purimetry; choose another folder"):
        Folder(tmp_path, SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_configuration_is_refused_by_name(tmp_path):
    Folder(tmp_path / "out", SETTINGS)
    with pytest.raises(RecordError, match=r"other settings \(images\)"):
        Folder(tmp_path / "out", {"images": 9})


def test_records_of_another_version(tmp_path):
    folder = Folder(tmp_path / "out", SETTINGS)
    folder.write("rates", [Measurement("rates", "rate", 0.25, 0.01, 8, "ratio")])
    lines = tmp_path / "out/rates/records.jsonl"
    lines.write_text(lines.read_text().replace('"version": 1', '"version": 0'))
    with pytest.raises(RecordError, match="is of version 0, expected 1"):
        read_records(tmp_path / "out")
    manifest = tmp_path / "out/run.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))
    for use in (lambda: read_records(tmp_path / "out"), lambda: Folder(tmp_path / "out", SETTINGS)):
        with pytest.raises(RecordError, match="version 2, this purimetry reads version 1"):
            use()


def test_a_line_that_is_no_record(tmp_path):
    Folder(tmp_path / "out", SETTINGS).write("rates", [])
    (tmp_path / "out/rates/records.jsonl").write_text('{"version": 1}\n')
    with pytest.raises(RecordError, match="line 1 is not a record"):
        read_records(tmp_path / "out")


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(RecordError, match="is not a run of purimetry"):
        read_records(tmp_path)


@pytest.mark.parametrize("read, what", [(read_records, "records"), (records.read_shards, "shards")])
def test_an_experiment_that_is_not_there_is_named_with_those_that_are(tmp_path, read, what):
    folder = Folder(tmp_path, SETTINGS)
    with pytest.raises(RecordError, match=f"no {what} of 'typo', it has those of none"):
        read(tmp_path, "typo")
    for name in ("rates", "training"):
        folder.write(name, [Measurement(name, "rate", 0.25, 0.01, 8, "ratio")])
        folder.shard(name, "one", lambda: ARRAYS)
    with pytest.raises(RecordError, match=f"no {what} of 'typo', it has those of rates, training; name one of them"):
        read(tmp_path, "typo")
    with pytest.raises(RecordError, match="is not a run of purimetry"):
        read(tmp_path / "rates", "rates")


def test_weights_come_back_and_damage_is_detected(tmp_path):
    tree, path = {"w": np.arange(1000, dtype=np.float32), "step": np.int32(3)}, tmp_path / "w.safetensors"
    sha = save_tree(path, tree)
    found, again = load_tree(path, tree)
    assert sha == again and int(found["step"]) == 3
    np.testing.assert_array_equal(found["w"], tree["w"])
    good = path.read_bytes()
    for damaged in (good[:-10], good[:-1] + bytes([good[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match="damaged"):
            load_tree(path, tree)
    path.write_bytes(good)
    with pytest.raises(RecordError, match="another architecture"):
        load_tree(path, {**tree, "w": np.zeros(3, np.float32)})
