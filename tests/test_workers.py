"""Several processes do the work of one, share what can be shared, and say what went wrong."""

import numpy as np
import pytest
from purimetry.compression.batches import NonFinite
from purimetry.compression.records import RecordError
from purimetry.experiments import progress
from purimetry.experiments.configuration import Configuration
from purimetry.experiments.pieces import Piece, groups
from purimetry.experiments.workers import workers


def pieces(*described):
    return [Piece(program, cost, print) for program, cost in described]


def test_every_piece_goes_to_one_group():
    work = pieces(("a", 1), ("b", 2), ("a", 5), ("c", 1))
    for count in (1, 2, 3, 4, 100):
        assert sorted(number for group in groups(work, count) for number in group) == [0, 1, 2, 3]


def test_pieces_of_one_program_stay_together_while_there_are_enough_programs():
    work = pieces((15, 16), (10, 11), (15, 16), (10, 11))
    assert groups(work, 2) == [[0, 2], [1, 3]]
    assert sorted(groups(work, 3)) == [[0], [1], [2], [3]]


def test_the_dearest_group_is_first():
    assert groups(pieces(("a", 1), ("b", 1), ("c", 7)), 2)[0] == [2]


def test_one_worker_is_no_process():
    with workers(Configuration(workers=1)) as found:
        assert found.executor is None
        found.compute("training", pieces(("a", 1)))


def test_a_negative_number_of_workers_is_an_error():
    with pytest.raises(ValueError, match="--workers is at least 0, got -1"):
        Configuration(workers=-1)


def test_a_worker_that_cannot_begin_is_an_error(tmp_path):
    """The folder belongs to another run, which the worker finds when it opens it."""
    (tmp_path / "notes.txt").write_text("mine")
    configuration = Configuration(out=tmp_path, workers=2)
    with workers(configuration) as found, pytest.raises(OSError, match="ended before its work"):
        found.compute("training", pieces(("a", 1), ("b", 1)))


@pytest.mark.parametrize("error", [NonFinite("bad pixel", 3), RecordError("no room")])
def test_errors_keep_their_words_between_processes(error):
    import pickle

    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) and type(copy) is type(error) and vars(copy) == vars(error)


def test_bars_of_other_processes_are_dropped_where_none_are_shown(monkeypatch):
    monkeypatch.setattr(progress, "_queue", None)
    progress.send_to(None)
    with progress.bar("anything") as show:
        show(np.float32(0.5), "half")
