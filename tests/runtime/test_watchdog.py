"""What hangs is said once, with the phase, the step and the stacks."""
import threading

from nft_jax.runtime.watchdog import Watchdog


def hang(event):
    event.wait(60)


def hung(watchdog, capfd, times):
    """Hangs in a thread until there have been so many reports; what stderr got."""
    event, text = threading.Event(), ""
    thread = threading.Thread(target=hang, args=(event,), name="the-one-that-hangs")
    thread.start()
    while text.count("no progress for") < times:
        threading.Event().wait(0.02)
        text += capfd.readouterr().err
    event.set()
    thread.join()
    return text


def test_a_hang_is_reported_once_with_all_stacks_and_again_only_after_progress(tmp_path, capfd):
    watchdog = Watchdog(0.2, tmp_path / "hang.txt")
    watchdog.feed("rollout", 7)
    text = hung(watchdog, capfd, 1)
    assert "in step 7, phase rollout" in text
    assert "thread the-one-that-hangs:" in text and "in hang" in text and "event.wait(60)" in text
    assert (tmp_path / "hang.txt").read_text().count("no progress") == 1
    threading.Event().wait(0.5)
    assert "no progress" not in capfd.readouterr().err             # it hangs on: said already
    watchdog.feed("verify")
    assert "step 7, phase rollout: goes on, after" in capfd.readouterr().err
    assert "in step 7, phase verify" in hung(watchdog, capfd, 1)
    watchdog.close()


def test_it_ends_the_process_where_asked_and_says_so_where_the_file_cannot_be_written(tmp_path, capfd):
    ended = threading.Event()
    watchdog = Watchdog(0.1, tmp_path / "missing" / "hang.txt", ends=True, end=lambda status: ended.set() or status)
    assert ended.wait(60)
    watchdog.close()
    err = capfd.readouterr().err
    assert "no progress for" in err and "hang.txt cannot be written" in err


def test_off(tmp_path):
    threads = threading.active_count()
    watchdog = Watchdog(0, tmp_path / "hang.txt")
    assert threading.active_count() == threads
    watchdog.feed("x", 1)
    watchdog.close()
