"""A training that is told that it will end saves at once, and the one who told it waits no longer than that."""

import threading
import time

from raypixel.train.preemption import Notice, notice_of


def test_notice_is_one_for_all_threads_of_a_run():
    assert notice_of("run") is notice_of("run")
    assert notice_of("run") is not notice_of("another run")


def test_save_is_due_at_once_when_told_and_not_again_right_after_it():
    notice = Notice()
    assert not notice.is_save_due()
    notice.give()
    assert notice.is_save_due()
    notice.note_saved()
    assert not notice.is_save_due()
    notice.give()  # the announced end has come
    assert notice.is_save_due()


def test_waiting_ends_with_the_save():
    notice = Notice()
    notice.give()
    assert not notice.wait(0.01)
    threading.Timer(0.1, notice.note_saved).start()
    started = time.monotonic()
    assert notice.wait(100)
    assert time.monotonic() - started < 50


def test_training_that_is_over_is_not_waited_for():
    notice = Notice()
    notice.note_over()
    notice.give()
    assert notice.wait(0)
