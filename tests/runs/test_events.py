"""Events arrive in order, each once, with a folder that both sides see and without."""

import pytest

from raypixel.runs import Event, Follower, Run, writing
from raypixel.runs.events import append_event, drop_half_line, fetch_events, read_events


def steps_of(events):
    return [event.step for event in events]


def write(run, steps):
    with writing(run) as writer:
        for step in steps:
            writer.events.append(Event("step", step=step))


@pytest.mark.parametrize("is_remote", [False, True])
def test_events_of_a_process_and_of_the_one_that_replaces_it_arrive_in_order_and_once(
    tmp_path, request, is_remote
):
    run = Run.at(request.getfixturevalue("bucket") / "run" if is_remote else tmp_path / "run")
    follower = Follower()
    run.join(follower, "trial")
    write(run, range(3))
    write(run, range(3, 6))
    run.end(Event("end", status="done"))
    assert steps_of(follower.remove("trial")) == [0, 1, 2, 3, 4, 5, 0]
    assert follower.read() == follower.remove("trial") == []
    late = Follower()
    run.join(late, "trial")  # begins behind what is there
    write(run, [6])
    assert steps_of(late.remove("trial")) == [6]
    for each in (follower, late):
        each.close()


def test_an_event_reads_back_as_it_was_written(tmp_path):
    event = Event("epoch", step=3, total_steps=9, epoch=1, seconds=0.5, metrics={"x": 1.0})
    append_event(tmp_path, event)
    assert read_events(tmp_path)[0] == [event]


def test_a_half_line_is_left_until_it_is_whole_and_cut_off_by_the_next_writer(tmp_path):
    append_event(tmp_path, Event("step", step=1))
    whole = Event("step", step=2).to_line()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(whole[:9])
    events, position = read_events(tmp_path)
    assert steps_of(events) == [1]
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(whole[9:])
    events, position = read_events(tmp_path, position)
    assert steps_of(events) == [2]
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(whole[:9])
    drop_half_line(tmp_path)
    append_event(tmp_path, Event("step", step=3))
    assert steps_of(read_events(tmp_path)[0]) == [1, 2, 3]


def test_a_copy_that_was_lost_is_fetched_whole(bucket, tmp_path):
    run = Run.at(bucket / "run")
    for step in range(3):
        write(run, [step])
    fetch_events(run.home, tmp_path / "copy")
    fetch_events(run.home, tmp_path / "copy")
    assert steps_of(read_events(tmp_path / "copy")[0]) == [0, 1, 2]
