"""What a person at a terminal sees: the progress of a run, and how a command ends when it does not end well.

Nobody may be reading. `output_guarded` keeps a closed pipe or a full log disk from ending a run."""
from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from nft_jax.types import Halted, InputError

# The metrics shown beside a step, and their form. A metric that the step did not measure is left out.
SHOWN = {"accuracy/all": "train {:.1%}", "evaluation/accuracy/all": "held-out {:.1%}", "entropy/all": "entropy {:.3f}",
         "answers/epoch": "epoch {:.2f}", "tokens_per_second/rollout": "rollout {:,.0f} tok/s",
         "tokens_per_second/train": "train {:,.0f} tok/s"}
RECENT = 10            # steps whose time tells the time that is left
PULSE = 60.0           # seconds of silence after which a run that is no terminal's prints what it does
FEW = 0.1              # share of groups with right and wrong answers below which the console points to the page
CLAMPED = 0.5          # share of the tokens of wrong answers at NFT's clamp from which the console warns
PAGE = "experiments/what_you_should_see.md"


class _Guarded:
    """A text stream whose writes never fail: what cannot be written is dropped."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            code = self._stream.encoding
            return self.write(text.encode(code, "replace").decode(code))
        except (OSError, ValueError):           # ValueError: the stream is closed
            return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


@contextmanager
def output_guarded() -> Iterator[None]:
    """While the block runs, and at the end of the process, no write to standard output or error fails.

    Their reader may be gone (`| head`, a closed terminal), or their disk full. Output is dropped as long as it
    cannot be written. Without a guard rich ends the process for the first, and Python for the second."""
    usual = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Guarded(stream) for stream in usual)
    atexit.unregister(_last_flush)
    atexit.register(_last_flush)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = usual


def _last_flush() -> None:
    """Lets a stream that cannot be written go nowhere: Python's own last flush would change the exit status."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def hide_bars() -> None:
    """Before another library is imported: its progress bars are for a terminal, or a notebook with ipywidgets.

    Elsewhere a bar is red text in a notebook, and a line for every redraw in a log. Whoever sets the libraries' own
    variables, such as HF_HUB_DISABLE_PROGRESS_BARS=0, decides."""
    draws = "ipykernel" in sys.modules and find_spec("ipywidgets") is not None
    if draws or (sys.stderr is not None and sys.stderr.isatty()):
        return
    for library in ("HF_HUB", "HF_DATASETS"):
        os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")
    # tqdm's, when it is imported in a notebook.
    warnings.filterwarnings("ignore", message="IProgress not found")


@contextmanager
def one_paragraph_errors(advice: str = "") -> Iterator[None]:
    """Ends the program without a traceback where the error is meant for the user. Its output is guarded.

    InputError prints one paragraph on stderr and ends with status 2, Halted does so with status 1.
    Ctrl-C prints "interrupted", followed by `advice`, and ends with status 130. Any other error
    keeps its traceback (status 1)."""
    with output_guarded():
        try:
            yield
        except (InputError, Halted) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.status)
        except KeyboardInterrupt:
            print(f"interrupted; {advice}" if advice else "interrupted", file=sys.stderr)
            sys.exit(130)


class Console:
    """Shows a run of `steps` steps that goes on after step `first`: a line for every row of metrics.

    Below, a terminal shows what the run does now, in a line that moves. Elsewhere such a line is printed after every
    PULSE seconds of silence."""

    def __init__(self, steps: int, first: int = 0, quiet: bool = False):
        # What is said may quote a token such as [/INST], which is no markup.
        self.rich = RichConsole(quiet=quiet, highlight=False, markup=False, emoji=False)
        # A run begins with the evaluation of step 0. Later on the row of a step tells of it when it has ended.
        self.steps, self._done, self._doing, self._tokens = steps, first, "", 0
        self._number = first + 1 if first else 0
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._begun = self._spoken = time.monotonic()
        self._advised: set[str] = set()
        self._bar = Progress(
            SpinnerColumn(), TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=None), _Now(self),
            console=self.rich, transient=True, disable=not self.rich.is_terminal)
        self._task = self._bar.add_task("run", total=steps, completed=first)
        self._ended = threading.Event()
        self._pulse = threading.Thread(target=self._beat, name="nft-console", daemon=True)

    def __enter__(self) -> Console:
        self._bar.start()
        if not self.rich.is_terminal and not self.rich.quiet:
            self._pulse.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._pulse.is_alive():
            self._pulse.join()
        self._bar.stop()

    def say(self, text: object) -> None:
        """Prints a line, at any time."""
        self._spoken = time.monotonic()
        self.rich.print(text, soft_wrap=True)

    def phase(self, name: str) -> None:
        """Notes what the run is doing now."""
        self._doing = name

    def decoded(self, tokens: int) -> None:
        """Notes that so many more tokens were decoded."""
        self._tokens += tokens

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Prints the numbers that this step measured, and the time left if the next steps take as long as the last."""
        if step > self._done and "seconds/step" in metrics:
            self._seconds.append(metrics["seconds/step"])
        self._done, self._tokens, self._begun = step, 0, time.monotonic()
        self._number = min(step + 1, self.steps)
        self._bar.update(self._task, completed=step)
        self.say("  ".join(filter(None, (f"step {step}/{self.steps}", *self._numbers(metrics), self._left()))))
        self._advise(metrics)

    def now(self) -> str:
        """What the run does: the phase, tokens decoded and time since the last row of metrics, the time left."""
        tokens = f"{self._tokens:,} tokens" if self._tokens else ""
        return "  ".join(filter(None, (self._doing, tokens, duration(time.monotonic() - self._begun), self._left())))

    def _beat(self) -> None:
        """Prints `now` whenever nothing was printed for PULSE seconds."""
        while not self._ended.wait(max(self._spoken + PULSE - time.monotonic(), 1.0)):
            if time.monotonic() - self._spoken >= PULSE:
                self.say(f"step {self._number}/{self.steps}  {self.now()}")

    def _left(self) -> str:
        """"" while no step tells it."""
        remaining = self.steps - self._done
        if not self._seconds or not remaining:
            return ""
        return f"left {duration(remaining * sum(self._seconds) / len(self._seconds))}"

    @staticmethod
    def _numbers(metrics: dict[str, float]) -> Iterator[str]:
        yield from (form.format(metrics[key]) for key, form in SHOWN.items() if metrics.get(key) is not None)
        # All stored groups that are read are mixed.
        if (groups := metrics.get("groups/generated")) and "answers/epoch" not in metrics:
            yield f"{round(metrics['groups/accepted_share'] * groups)} of {groups} groups mixed"

    def _advise(self, metrics: dict[str, float]) -> None:
        """Says, each once, what no right answer, too few groups with right and wrong ones, and a clamp at work on every
        second token mean, and where the remedies stand."""
        if metrics.get("evaluation/accuracy/all") == 0:
            empty, cut = metrics.get("evaluation/verdicts/no_answer"), metrics.get("evaluation/truncated_share", 0.0)
            found = f"{empty:.0f} answers have no final answer, such as a box, and " if empty is not None else ""
            self._once("right", f"No held-out answer is right: {found}{cut:.0%} were cut at their limit of tokens. "
                                "Look at the first prompt above: it is what the model reads, and data.template and "
                                "data.system make it.")
        if metrics.get("groups/accepted_share", 1.0) < FEW:
            self._once("mixed", "Fewer than a tenth of the groups have right and wrong answers (\"mixed\"). The others "
                                f"teach nothing. {PAGE}, \"The reward is flat\", says what to look at and which field "
                                "to turn.")
        if metrics.get("share/clamped", 0.0) >= CLAMPED:
            self._once("clamped", "Half of the tokens of wrong answers are at NFT's clamp (share/clamped): the policy "
                                  "has moved far from the one that gave the answers. Take fewer epochs or updates, a "
                                  f"lower learning rate, or fresh answers. {PAGE} says more (\"Stored answers grow "
                                  "old\").")

    def _once(self, what: str, text: str) -> None:
        if what not in self._advised:
            self._advised.add(what)
            self.say(text)


class _Now(ProgressColumn):
    """The end of the moving line, made anew at every refresh."""

    def __init__(self, console: Console):
        self._console = console
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(self._console.now())


def duration(seconds: float) -> str:
    """A time to read: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02} min" if hours >= 2 else f"{60 * hours + minutes} min"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *rows))
