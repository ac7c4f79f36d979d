"""Files are whole or not there, damage is found by name, and one process at a time holds a folder."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nft_jax.runtime.files import checksum, damage, held, make_folder, read_manifest, remove, replaced, write_manifest
from refusal import refused

ROOT = Path(__file__).parents[2]


def test_what_is_replaced_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    file, folder = tmp_path / "a.txt", tmp_path / "model"
    file.write_text("old")
    folder.mkdir()
    (folder / "one").write_text("1")
    with pytest.raises(RuntimeError), replaced(file) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old"
    with replaced(file) as partial:                 # what the first attempt left is no hindrance
        partial.write_text("new")
    with replaced(folder) as partial:
        partial.mkdir()
        (partial / "two").write_text("2")
        assert (folder / "one").exists()
    with replaced(tmp_path / "other", writes=False) as partial:
        assert partial == tmp_path / "other.partial"
    assert file.read_text() == "new" and [path.name for path in folder.iterdir()] == ["two"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "model"]


@pytest.mark.parametrize("target", ["beside", "elsewhere/below"])
def test_a_link_stays_and_its_target_is_replaced(tmp_path, target):
    """A folder on another disk, a file that is kept elsewhere: the bytes go there, and the link is as it was."""
    place, links = tmp_path / target, tmp_path / "run"
    place.mkdir(parents=True)
    links.mkdir()
    (links / "model").symlink_to(place / "model")
    (links / "a.txt").symlink_to(place / "a.txt")
    (place / "model" / "sub").mkdir(parents=True)
    (place / "model" / "old").write_text("old")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").write_text("mine")
    (place / "model" / "link").symlink_to(tmp_path / "other")
    for round in ("1", "2"):
        with replaced(links / "a.txt") as partial:
            partial.write_text(round)
        with pytest.raises(RuntimeError), replaced(links / "model") as partial:
            partial.mkdir()
            raise RuntimeError
        with replaced(links / "model") as partial:
            assert partial.resolve().is_relative_to(place / "model")
            (partial / "sub").mkdir(parents=True)
            (partial / "sub" / round).write_text("new")
        assert (links / "model").is_symlink() and (links / "a.txt").is_symlink()
        assert (place / "a.txt").read_text() == round
        found = sorted(str(path.relative_to(place / "model")) for path in (place / "model").rglob("*"))
        assert found == ["sub", f"sub/{round}"]
        assert sorted(path.name for path in links.iterdir()) == ["a.txt", "model"]
    remove(links / "model")
    assert (links / "model").is_symlink() and not list((place / "model").iterdir())
    assert (tmp_path / "other" / "mine").read_text() == "mine"


@pytest.mark.parametrize("folder", ["gs://bucket/x", "s3://bucket", "hdfs://host/x", "a-b+c.1:/x"])
def test_an_address_never_becomes_a_folder_here(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    with refused("--out", Path(folder)):
        make_folder(Path(folder), "--out")
    assert not list(tmp_path.iterdir())


def test_what_the_system_refuses_to_make_is_named(tmp_path):
    (tmp_path / "file").touch()
    with refused("--out", tmp_path / "file" / "below", "Not a directory"):
        make_folder(tmp_path / "file" / "below", "--out")
    make_folder(tmp_path / "a" / "b", "--out")
    make_folder(tmp_path / "a" / "b", "--out")


def test_the_checksum_is_that_of_the_whole_file(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"123456789")
    assert checksum(tmp_path / "a") == 0xCBF43926            # the check value of CRC-32
    monkeypatch.setattr("nft_jax.runtime.files.CHUNK", 2)
    assert checksum(tmp_path / "a") == 0xCBF43926


def test_damage_is_named_file_by_file(tmp_path):
    for name in "abcde":
        (tmp_path / "sub" / name).mkdir(parents=True)
        (tmp_path / "sub" / name / "data").write_bytes(name.encode() * 10)
    (tmp_path / "later").write_text("not known yet")
    write_manifest(tmp_path, {"score": 0.5}, ignore=("later",))
    (tmp_path / "later").write_text("known")
    (tmp_path / "more").write_text("not in the manifest")
    assert damage(tmp_path) == "" and read_manifest(tmp_path)["notes"] == {"score": 0.5}
    (tmp_path / "sub/a/data").write_bytes(b"aaaaabaaaa")
    assert damage(tmp_path) == "the bytes of sub/a/data have changed"
    (tmp_path / "sub/b/data").write_bytes(b"bbb")
    (tmp_path / "sub/c/data").unlink()
    assert damage(tmp_path) == "sub/b/data has 3 bytes instead of 10, sub/c/data is missing"
    for name in "de":
        (tmp_path / "sub" / name / "data").unlink()
    assert damage(tmp_path).endswith("sub/d/data is missing, and 1 more files")
    text = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace("0.5", "0.6"))
    assert damage(tmp_path) == "manifest.json is damaged" and read_manifest(tmp_path) is None
    assert damage(tmp_path / "nothing") == "it is no folder"


HOLDER = """
import sys, time
from pathlib import Path
from nft_jax.runtime.files import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_holds_a_folder_and_a_kill_frees_it(tmp_path):
    with held(tmp_path) as remark:
        assert remark == ""
        with refused("workdir", tmp_path, f"process {os.getpid()} on"), held(tmp_path):
            pass
    assert (tmp_path / "lock").read_text() == ""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with refused(f"process {process.pid} on", "since 20", "--fresh"), held(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert f"process {process.pid}" in (tmp_path / "lock").read_text()         # it could not tidy up
    with held(tmp_path) as remark:
        assert remark == ""


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with held(tmp_path) as remark:
        assert "lock cannot be locked (Operation not supported)" in remark
