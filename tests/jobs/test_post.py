"""Messages arrive in order, each once, without a folder that both sides see."""

import json
from pathlib import Path

from raypixel import storage
from raypixel.jobs.post import MESSAGES, Inbox, sending
from raypixel.jobs.worker import Message


def steps_in(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / MESSAGES).read_text().splitlines()]


def test_messages_through_storage_arrive_in_order_and_once(bucket, tmp_path):
    inbox = Inbox()
    inbox.open(bucket / "trial", tmp_path)
    for start in (0, 3):  # the second process replaces the first
        with sending(bucket / "trial") as send:
            for step in range(start, start + 3):
                send(Message("step", step=step))
    inbox.shut(bucket / "trial")
    assert steps_in(tmp_path) == list(range(6))
    inbox.open(bucket / "trial", tmp_path)
    assert not storage.exists(bucket / "trial")
    assert not (tmp_path / MESSAGES).exists()
    inbox.close()


def test_messages_through_a_folder_are_in_its_file(tmp_path):
    inbox = Inbox()
    inbox.open(tmp_path, tmp_path)
    with sending(tmp_path) as send:
        send(Message("step", step=7))
    inbox.shut(tmp_path)
    inbox.close()
    assert steps_in(tmp_path) == [7]
