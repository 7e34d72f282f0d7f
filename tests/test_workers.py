"""Several processes do the work of one, share what can be shared, and say what went wrong."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from purimetry.compression.batches import NonFinite
from purimetry.compression.records import RecordError
from purimetry.experiments import preflight, progress, rates, robust_accuracy, training
from purimetry.experiments import workers as module
from purimetry.experiments.configuration import Configuration
from purimetry.experiments.pieces import Group, Piece, groups
from purimetry.experiments.workbench import Unmet, Workbench
from purimetry.experiments.workers import Workers, workers


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


NETWORKS = ("classifier", "denoiser")
PLAN = {
    "training": [Piece("classifier", 1, print, ()), Piece("denoiser", 4, print, ())],
    "rates": [Piece(t, t, print, NETWORKS) for t in (1, 2, 5)],
    "attacks": [Piece("bare", 1, print, ("classifier",)), *(Piece(t, t, print, NETWORKS) for t in (1, 2, 5))],
    "joined": [Piece("all", 1, print)],
}
"""Experiments in order; the last needs all before it."""


@pytest.fixture
def threads(monkeypatch):
    """Workers whose processes are threads of this one, computing by a function that a test gives."""
    found = Workers(Configuration(workers=1), 1)
    found.count, found.bars, found.executor = 2, None, ThreadPoolExecutor(2)

    def run(compute, plan=PLAN):
        monkeypatch.setattr(module, "_compute", compute)
        names = list(plan)
        for number, name in enumerate(names, 1):
            found.compute(name, plan[name], ((later, plan[later]) for later in names[number:]))

    yield run
    found.executor.shutdown()


def test_a_process_without_work_begins_with_later_experiments(threads):
    """While the denoiser is trained, what asks for the classifier alone is measured; each group is computed once."""
    bare, lock, computed = threading.Event(), threading.Lock(), []

    def compute(experiment, numbers):
        programs = [PLAN[experiment][number].program for number in numbers]
        with lock:
            computed.extend((experiment, program) for program in programs)
        if programs == ["denoiser"]:
            assert bare.wait(60)
        if programs == ["bare"]:
            bare.set()

    threads(compute)
    assert sorted(computed, key=str) == sorted(((e, p.program) for e in PLAN for p in PLAN[e]), key=str)


def test_a_program_is_compiled_by_two_processes_only_where_nothing_else_is_left(threads):
    plan = {"rates": [Piece(5, 1, print, ()) for _ in range(3)], "preflight": [Piece("checks", 1, print, ())]}
    checks, both = threading.Event(), threading.Barrier(2, timeout=60)

    def compute(experiment, numbers):
        if experiment == "preflight":
            checks.set()
        elif numbers == (0,):
            assert checks.wait(60)
        else:
            both.wait()

    threads(compute, plan)


def test_a_process_keeps_its_programs_while_its_next_group_has_the_same(monkeypatch):
    work, cleared = pieces(("a", 1), ("a", 1), ("b", 1)), []
    monkeypatch.setattr(module, "import_module", lambda *_: SimpleNamespace(pieces=lambda bench: work))
    monkeypatch.setattr(module, "_bench", SimpleNamespace(configuration=Configuration()))
    monkeypatch.setattr(module, "_compiled", None)
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(True))
    counts = []
    for experiment, number in (("rates", 0), ("rates", 1), ("rates", 2), ("prediction", 2)):
        module._compute(experiment, (number,))
        counts.append(len(cleared))
    assert counts == [1, 1, 2, 3]


def test_no_group_begins_before_what_it_needs(threads):
    lock, finished = threading.Lock(), set()
    order = list(PLAN)

    def compute(experiment, numbers):
        for piece in (PLAN[experiment][number] for number in numbers):
            before = {(e, p.program) for e in order[: order.index(experiment)] for p in PLAN[e]
                      if piece.needs is None or p.program in (*piece.needs, piece.program)}
            with lock:
                assert before <= finished
        with lock:
            finished.update((experiment, PLAN[experiment][number].program) for number in numbers)

    threads(compute)
    assert len(finished) == sum(map(len, PLAN.values()))


def test_an_error_is_raised_when_its_own_experiment_is_computed(threads):
    plan = {"first": [Piece("slow", 1, print, ())], "second": [Piece("bare", 1, print, ())]}
    failed, returned = threading.Event(), []

    def compute(experiment, numbers):
        if experiment == "second":
            failed.set()
            raise Unmet("no such network")
        assert failed.wait(60)
        returned.append(experiment)

    with pytest.raises(Unmet, match="no such network"):
        threads(compute, plan)
    assert returned == ["first"]


def test_attacks_wait_for_rates_and_not_for_preflight_which_waits_for_networks(tmp_path):
    bench = Workbench(Configuration(out=tmp_path, images=4))

    def whole(experiment):
        pieces = experiment.pieces(bench)
        return Group.of(experiment.__name__, pieces, range(len(pieces)))

    attacks, checks = whole(robust_accuracy), whole(preflight)
    assert not attacks.may_start([whole(rates)]) and attacks.may_start([checks])
    assert not checks.may_start([whole(training)])
