"""Nobody reads the output: a command ends as it would, with the same status and the same files."""
import os
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest

from nft_jax.runtime.terminal import hide_bars

ROOT = Path(__file__).parents[2]
COMMAND = """
import sys
from pathlib import Path
from nft_jax.cli import print_summary
from nft_jax.config import Config
from nft_jax.runtime.terminal import Console, one_paragraph_errors
from nft_jax.types import Halted, InputError

SUMMARY = {"objective": "nft", "steps": 3, "base_accuracy": 0.5, "final_accuracy": 0.6, "seconds": 1.0,
           "tokens_generated": 1, "tokens_kept": 1, "finished": True}
ends = {"0": lambda: None, "1": lambda: {}["no key"], "2": lambda: (_ for _ in ()).throw(InputError("field is 3")),
        "130": lambda: (_ for _ in ()).throw(KeyboardInterrupt)}
with one_paragraph_errors("the same command goes on"):
    with Console(3) as console:
        for step in range(1, 4):
            console.step(step, {"accuracy/all": 0.5})
            console.say("a line — of 40 characters, with a dash   " * 300)
    print("plain" * 5000, file=sys.stderr)
    print_summary(Config(name="small"), SUMMARY)
    Path(sys.argv[1]).touch()
    ends[sys.argv[2]]()
"""


@contextmanager
def nobody(kind):
    """Where the output goes: a file that takes nothing, or a pipe whose reader is gone."""
    if kind == "full disk":
        with open("/dev/full", "w") as file:
            yield {"stdout": file, "stderr": file}
    elif kind == "closed pipe":
        reader, writer = os.pipe()
        os.close(reader)
        yield {"stdout": writer, "stderr": writer}
        os.close(writer)
    else:
        yield {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def end(kind, tmp_path, status):
    """The status that the command ends with."""
    shell = 'exec "$@"' + (" >&- 2>&-" if kind == "closed from the start" else "")
    arguments = [sys.executable, "-c", COMMAND, str(tmp_path / "done"), str(status)]
    environment = os.environ | ({"PYTHONIOENCODING": "ascii"} if kind == "ascii" else {})
    with nobody(kind) as places:
        found = subprocess.run(["bash", "-c", shell, "bash", *arguments], cwd=ROOT, env=environment, timeout=100,
                               **places)
    assert (tmp_path / "done").exists()
    return found.returncode


@pytest.mark.parametrize("kind", ["full disk", "closed pipe", "closed from the start", "ascii"])
def test_a_command_that_nobody_reads_does_all_that_it_would(tmp_path, kind):
    assert end(kind, tmp_path, 0) == 0


@pytest.mark.parametrize("status", [1, 2, 130])
@pytest.mark.parametrize("kind", ["full disk", "closed pipe"])
def test_it_ends_with_the_status_of_its_error(tmp_path, kind, status):
    assert end(kind, tmp_path, status) == status


@pytest.mark.parametrize("draws", [True, False])
def test_bars_of_other_libraries_are_for_those_who_can_draw_them(draws, monkeypatch):
    """On a terminal they stay; in a log, or a notebook without ipywidgets, they and tqdm's warning are away."""
    names = [f"{library}_DISABLE_PROGRESS_BARS" for library in ("HF_HUB", "HF_DATASETS")]
    for name in names:
        monkeypatch.setenv(name, "gone")            # so that the end of the test restores it
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "stderr", type("Stream", (), {"isatty": lambda self: draws})())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        hide_bars()
        warnings.warn("IProgress not found. Please update jupyter and ipywidgets.", stacklevel=1)
        warnings.warn("another", stacklevel=1)
    assert [os.environ.get(name) for name in names] == ([None] * 2 if draws else ["1"] * 2)
    assert [str(each.message)[:7] for each in said] == ["IProgre", "another"][0 if draws else 1:]
    monkeypatch.setenv(names[0], "0")
    hide_bars()
    assert os.environ[names[0]] == "0"
