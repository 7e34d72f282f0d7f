"""Downloads from a server that fails in every way there is: a file gets its name only when it is the right one."""

import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import purimetry as pm
from purimetry.compression.data import download as module
from purimetry.compression.data.dataset import DataError
from purimetry.compression.data.download import Archive, fetch


def archive() -> bytes:
    """A CIFAR-10 of six images."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as members:
        for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = 3073
            members.addfile(member, io.BytesIO(bytes(range(8)) * 384 + b"\x00"))
    return buffer.getvalue()


CONTENT = archive()
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Answers by the first part of the path, and counts."""

    asked: list[str] = []

    def do_GET(self):
        kind = self.path.split("/")[1]
        self.asked.append(kind)
        if kind == "none":
            return self.send_error(404)
        page = b"<!DOCTYPE html><html>please log in</html>"
        content = {"page": page, "wrong": CONTENT[:-1] + b"x"}.get(kind, CONTENT)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if kind == "half" else content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """The address of a server on this machine, which no proxy stands before."""
    for name in ("NO_PROXY", "no_proxy"):  # of both the small one counts
        monkeypatch.setenv(name, "127.0.0.1")
    Server.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("kind, message", [
    ("half", "did not arrive whole .*run the same again"),
    ("page", "a web page, b'<!DOCTYPE html><html>please log in</html>', which is perhaps a proxy's or a login"),
    ("wrong", f"{len(CONTENT)} bytes that are not the published file; try again on another network"),
    ("none", "answers 404; try again later"),
])
def test_what_is_not_the_right_file_is_refused_and_leaves_nothing(server, tmp_path, kind, message):
    with pytest.raises(DataError, match=f"{server}/{kind}/a.tar.gz .*{message}.*, or put a.tar.gz with SHA-256 {SHA}"):
        fetch(Archive(f"{server}/{kind}/a.tar.gz", SHA), tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_server_that_does_not_answer_is_said(server, tmp_path):
    with pytest.raises(DataError, match="did not arrive whole .*refused"):
        fetch(Archive("http://127.0.0.1:1/a.tar.gz", SHA), tmp_path)


def test_the_right_file_is_fetched_once_and_readable_by_all(server, tmp_path):
    done = []
    for _ in range(2):
        path = fetch(Archive(f"{server}/right/a.tar.gz", SHA), tmp_path, done.append)
        assert path == tmp_path / "a.tar.gz" and path.read_bytes() == CONTENT
    assert Server.asked == ["right"] and path.stat().st_mode & 0o777 == 0o644
    assert done[-1] == 1 and all(0 <= each <= 1 for each in done)


def test_a_damaged_file_is_fetched_again(server, tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(CONTENT[:-1])
    assert fetch(Archive(f"{server}/right/a.tar.gz", SHA), tmp_path).read_bytes() == CONTENT
    assert Server.asked == ["right"]


def test_a_command_gets_the_data_once_and_says_what_there_is(server, tmp_path, monkeypatch, capsys):
    from purimetry.experiments.command_line import main

    url = f"{server}/right/cifar-10-binary.tar.gz"
    monkeypatch.setitem(module.ARCHIVES, "cifar10", Archive(url, SHA))
    for _ in range(2):
        assert main(["data", "cifar10", "--data-dir", str(tmp_path)]) == 0
        fingerprint = pm.cifar10(tmp_path).fingerprint
        expected = f"cifar10: 5 training and 1 test images in {tmp_path}, SHA-256 {fingerprint}\n"
        assert capsys.readouterr().out == expected
    assert Server.asked == ["right"]
    monkeypatch.setitem(module.ARCHIVES, "cifar100", Archive(f"{server}/none/cifar-100-binary.tar.gz", SHA))
    assert main(["data", "cifar100", "--data-dir", str(tmp_path)]) == 1
    assert "answers 404" in capsys.readouterr().err


def test_only_known_names_are_downloaded(tmp_path):
    with pytest.raises(ValueError, match="no data set 'mnist' to download; choose one of cifar10, cifar100"):
        pm.download("mnist", tmp_path)
    for known in module.ARCHIVES.values():
        assert known.url.startswith("https://www.cs.toronto.edu/~kriz/cifar-") and len(known.sha256) == 64
