"""Several hosts do the work of one and end with its bytes."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from purimetry.experiments import hosts
from purimetry.experiments.configuration import Configuration
from purimetry.experiments.pieces import Piece, groups, share

from .test_resume import FUNCTIONS

TINY = (
    "run", "rates", "--images", "4", "--samplers", "ddim", "ddpm", "flow", "--t-stars", "1", "--eps", "0.1",
    "--seeds", "0", "--draws", "2", "--eps-factors", "1", "--batch", "4", "--workers", "1",
)
SCRIPT = "import sys; from purimetry.experiments.command_line import main; sys.exit(main())"


def start(home: Path, out: str, *options) -> subprocess.Popen:
    """A run of functions that compile in no time."""
    functions = home / "functions.py"
    functions.write_text(FUNCTIONS)
    networks = (part for name in ("classifier", "denoiser", "velocity")
                for part in (f"--{name}", f"{functions}:{name}"))
    told = ("--out", home / out, "--cache", home / "cache", *networks, *options)
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *TINY, *map(str, told)], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, env=os.environ)


def files(folder: Path) -> dict[str, bytes]:
    """Everything a run leaves but what tells of time."""
    found = (p for pattern in ("*/records.jsonl", "*/shards/*", "*.json") for p in folder.glob(pattern))
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


@contextmanager
def port_held():
    """A port that nobody else on this machine is given meanwhile, though the coordinator, which shares it, may use it.

    Given back before, it could be another process's by the time the coordinator has started, or its own other end's.
    """
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(("127.0.0.1", 0))  # without listening, so it takes no connection from the coordinator
        yield bound.getsockname()[1]


def test_two_hosts_end_with_the_bytes_of_one(tmp_path):
    alone = start(tmp_path, "one")
    output = alone.communicate(timeout=600)[0]
    assert alone.returncode == 0, output

    with port_held() as port:
        told = ("--coordinator", f"127.0.0.1:{port}", "--hosts", 2)
        both = [start(tmp_path, "two", *told, "--host", i) for i in range(2)]
        outputs = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert "report:" in outputs[0] and "report:" not in outputs[1]  # the first alone joins and reports

    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one.keys() == two.keys() and len([name for name in one if "shards" in name]) == 9
    assert one == two


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_piece_is_in_one_share_and_none_has_much_more_than_the_others(count):
    costs = (9, 2, 4, 8, 2, 4, 9, 3, 5, 1)
    pieces = [Piece(program, cost, print) for program, cost in zip("abcabcabca", costs, strict=True)]
    shares = [share(pieces, host, count) for host in range(count)]
    assert sorted(number for numbers in shares for number in numbers) == list(range(len(pieces)))
    loads = [sum(pieces[number].cost for number in numbers) for numbers in shares]
    # The dearest first, each to whoever has least: nobody is ahead of another by more than one group.
    assert max(loads) - min(loads) <= max(sum(pieces[n].cost for n in group) for group in groups(pieces, count))


@pytest.mark.parametrize("options, message", [
    ({"hosts": 2, "host": 2}, "--host is one of 0 to 1 of --hosts 2, got 2"),
    ({"hosts": 2}, "need --hosts and --coordinator"),
    ({"coordinator": "10.0.0.1:1234"}, "need --hosts and --coordinator"),
])
def test_hosts_that_do_not_fit_together_are_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        Configuration(**options)


@pytest.mark.parametrize("error", [RuntimeError("bind failed"), ValueError("coordinator_address should be defined.")])
def test_a_host_that_cannot_join_says_what_to_give(monkeypatch, error):
    def fail(**_):
        raise error

    monkeypatch.setattr("jax.distributed.initialize", fail)
    with pytest.raises(OSError, match=f"by --coordinator auto .{error}.; give the first host's own address"):
        hosts.join(Configuration(coordinator="auto"))


def test_hosts_do_not_determine_records():
    several = Configuration(coordinator="10.0.0.1:1234", hosts=2, host=1)
    assert several.determinants() == Configuration().determinants()


def test_a_folder_that_the_others_do_not_see_is_an_error(tmp_path, monkeypatch):
    for name, value in {"index": lambda: 1, "wait": lambda moment: None, "SEEN": 0}.items():
        monkeypatch.setattr(hosts, name, value)
    with pytest.raises(OSError, match="host 1 does not see the folder .*; give --out and --cache on a file system"):
        hosts.first_opens(tmp_path, lambda: pytest.fail("opened"))
    (tmp_path / "run.json").write_text("{}")
    assert hosts.first_opens(tmp_path, lambda: "opened") == "opened"
