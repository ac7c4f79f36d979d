"""The lines of a run on the console: a number on the step that measured it, the time left, a sign of life."""
import io
import re

import pytest
from rich.console import Console as RichConsole

from nft_jax.runtime import terminal
from nft_jax.runtime.terminal import PAGE, Console, duration


def lines_of(capsys):
    return capsys.readouterr().out.splitlines()


def test_a_number_stands_on_the_step_that_measured_it(capsys):
    console = Console(3)
    console.step(0, {"evaluation/accuracy/all": 0.397})
    console.step(1, {"accuracy/all": 0.5, "entropy/all": 0.25, "groups/generated": 64, "groups/accepted_share": 0.75})
    console.step(2, {"evaluation/accuracy/all": 0.5})
    assert lines_of(capsys) == ["step 0/3  held-out 39.7%",
                                "step 1/3  train 50.0%  entropy 0.250  48 of 64 groups mixed",
                                "step 2/3  held-out 50.0%"]


def test_the_time_left_is_of_the_last_steps(capsys):
    """Row 0 is an evaluation, and the first of many steps is slow: neither counts for ever."""
    console = Console(30, first=5)
    console.step(5, {"seconds/step": 500.0})
    for step in range(6, 29):
        console.step(step, {"seconds/step": 1000.0 if step == 6 else 60.0})
    shown = [re.search("left (.*)", line) for line in lines_of(capsys)]
    assert shown[0] is None and shown[1][1] == duration(24 * 1000)
    assert shown[-1][1] == duration(2 * 60) == "2 min"
    console.step(30, {"seconds/step": 60.0})
    assert "left" not in lines_of(capsys)[0]


@pytest.mark.parametrize(("seconds", "told"), [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (720, "12 min"),
                                               (7140, "119 min"), (7200, "2 h 00 min"), (224_280, "62 h 18 min")])
def test_a_duration_is_read_at_a_glance(seconds, told):
    assert duration(seconds) == told


def test_a_long_step_shows_that_it_lives(capsys, monkeypatch):
    """Nothing is printed for a while: a plain line says what is done, and how many tokens were decoded since."""
    monkeypatch.setattr(terminal, "PULSE", 0.0)
    waits = iter([False, True])
    console = Console(4)
    console.step(1, {"seconds/step": 60.0})
    console.phase("rollout")
    console.decoded(1000)
    console.decoded(234)
    monkeypatch.setattr(console._ended, "wait", lambda seconds: next(waits))
    console._beat()
    assert lines_of(capsys)[1:] == ["step 2/4  rollout  1,234 tokens  0 s  left 3 min"]
    console.step(2, {})
    assert "tokens" not in console.now()


@pytest.mark.parametrize(("first", "number"), [(0, 0), (5, 6)])
def test_the_first_line_names_the_step_that_is_worked_on(first, number, capsys, monkeypatch):
    """A run begins with the evaluation of step 0, and goes on after its newest checkpoint."""
    monkeypatch.setattr(terminal, "PULSE", 0.0)
    console = Console(9, first=first)
    waits = iter([False, True])
    monkeypatch.setattr(console._ended, "wait", lambda seconds: next(waits))
    console._beat()
    assert lines_of(capsys)[0].startswith(f"step {number}/9")


def test_a_terminal_has_a_moving_line_and_keeps_the_lines_of_steps(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "RichConsole", lambda **options: RichConsole(
        file=screen, force_terminal=True, width=120, **options))
    with Console(3) as console:
        console.phase("rollout")
        console.decoded(1234)
        console._bar.refresh()
        console.step(1, {"evaluation/accuracy/all": 0.5})
        console._bar.refresh()
        assert not console._pulse.is_alive()
    shown = screen.getvalue()
    assert "rollout  1,234 tokens" in shown and shown.count("held-out 50.0%") == 1


@pytest.mark.parametrize(("share", "told"), [(0.05, 1), (0.1, 0), (0.0, 1)])
def test_too_few_mixed_groups_point_to_the_page_once(share, told, capsys):
    console = Console(3)
    for step in (1, 2):
        console.step(step, {"groups/generated": 320, "groups/accepted_share": share})
    text = capsys.readouterr().out
    assert text.count(PAGE) == told and f"{round(320 * share)} of 320 groups mixed" in text


@pytest.mark.parametrize(("accuracy", "told"), [(0.0, 1), (0.1, 0)])
def test_no_right_answer_points_to_the_prompt_once(accuracy, told, capsys):
    console = Console(3)
    for step in (0, 1):
        console.step(step, {"evaluation/accuracy/all": accuracy, "evaluation/verdicts/no_answer": 229.0,
                            "evaluation/truncated_share": 0.97})
    text = capsys.readouterr().out
    assert text.count("229") == text.count("97%") == text.count("data.template") == told


def test_the_page_that_is_pointed_to_is_there():
    from pathlib import Path
    page = (Path(__file__).parents[2] / PAGE).read_text()
    assert "### The reward is flat" in page and "groups mixed" in page


def test_a_quiet_run_says_nothing(capsys):
    with Console(3, quiet=True) as console:
        console.step(1, {"groups/generated": 320, "groups/accepted_share": 0.0})
        assert not console._pulse.is_alive()
    assert capsys.readouterr().out == ""


def test_a_clamp_at_work_on_half_of_the_wrong_tokens_is_warned_of_once(capsys):
    console = Console(9)
    for step, share in enumerate((0.3, 0.5, 0.6)):
        console.step(step, {"share/clamped": share, "answers/epoch": 1.5, "groups/generated": 4,
                            "groups/accepted_share": 1.0})
    lines = lines_of(capsys)
    assert lines[0] == "step 0/9  epoch 1.50"          # all stored groups are mixed, so that is not told
    assert len(lines) == 4 and "share/clamped" in lines[2] and PAGE in lines[2]
