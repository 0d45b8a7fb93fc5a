"""The engine: images, fairness, bounds and errors, without Ray and without HTTP."""

import asyncio
import functools

import pytest
import torch

from raypixel.errors import ServingError
from raypixel.evaluation import nats_map
from raypixel.models import validate_model_config
from raypixel.sampling import image_seeds, sample
from raypixel.serving.engine import (
    Engine,
    Finished,
    Image,
    JobCancelled,
    NotAccepting,
    QueueFull,
    WrittenRows,
)
from raypixel.serving.stepper import Stepper
from tests.contract import random_model, tiny_options

NUM_LEVELS = 4
KINDS = ["pixelcnn", "gated_pixelcnn", "diagonal_bilstm", "multiscale"]


@functools.cache
def model_of(kind: str, *, image_shape=(1, 6, 5), num_classes: int = 0):
    """Build a tiny random model in float32."""
    options = tiny_options(kind) | ({"use_class_conditioning": True} if num_classes else {})
    config = validate_model_config(options)
    return random_model(
        config, image_shape=image_shape, num_levels=NUM_LEVELS, num_classes=num_classes
    ).float()


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def served(test):
    """Run an async test, then check that its engine holds nothing any more and close it."""

    @functools.wraps(test)
    def run(**arguments):
        async def main():
            engines = []

            async def start(model=None, **options) -> Engine:
                engine = Engine(model or model_of("pixelcnn"), **options)
                engines.append(engine)
                await engine.start()
                return engine

            await test(start, **arguments)
            for engine in engines:
                await engine.close()
                assert engine.stats.active_slots == engine.stats.queued_images == 0
                assert len(engine._free) == engine.stats.num_slots
                assert engine.stats.remaining_sub_pixels == 0

        asyncio.run(asyncio.wait_for(main(), 300))

    del run.__wrapped__  # pytest must not look for a fixture named start
    return run


def images_of(seed: int, count: int, **options) -> list[Image]:
    return [Image(each, **options) for each in image_seeds(seed, count)]


def large(num_images: int = 40) -> list[Image]:
    return images_of(99, num_images)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", ["compiled", "interpreter"])
def test_images_equal_the_samplers_whatever_the_company(kind, implementation, monkeypatch):
    monkeypatch.setattr(
        "raypixel.sampling.cached.choose_implementation", lambda slots: implementation
    )

    @served
    async def run(start):
        labeled = kind == "gated_pixelcnn"
        model = model_of(kind, num_classes=3 if labeled else 0, image_shape=(3, 5, 4))
        engine = await start(model, num_slots=3)
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(0, NUM_LEVELS, (3, 5, 4), generator=generator, dtype=torch.uint8)
        observed = torch.rand(x.shape, generator=generator) < 0.4
        observed[:, :2] = True
        jobs, expected = [], []
        for seed in range(4):
            count, temperature = (1, 5, 2, 3)[seed], (1.0, 0.7)[seed % 2]
            label = seed % 3 if labeled else None
            given = {"x": x, "observed": observed} if seed >= 2 else {}
            jobs.append(
                engine.submit(
                    images_of(seed, count, class_label=label, temperature=temperature, **given),
                    streams_rows=seed % 2 == 1,
                )
            )
            expected.append(
                sample(
                    model,
                    image_seeds(seed, count),
                    class_labels=torch.full((count,), label) if labeled else None,
                    temperature=temperature,
                    **{name: value.expand(count, -1, -1, -1) for name, value in given.items()},
                )
            )
            await asyncio.sleep(0.002 * seed)
        for job, images in zip(jobs, expected, strict=True):
            assert torch.equal(await job.result(), images)
        assert engine.stats.images == 11
        assert engine.stats.sub_pixels == 11 * x.numel()
        assert engine.stats.jobs_finished == sum(engine.stats.queue_waits.counts) == 4

    run()


@pytest.mark.parametrize("kind", ["pixelcnn", "multiscale"])
def test_rows_come_in_order_and_make_up_the_images(kind):
    @served
    async def run(start):
        engine = await start(model_of(kind), num_slots=2)
        others = engine.submit(large(6))
        job = engine.submit(images_of(1, 5), streams_rows=True)
        rows, whole = {k: [] for k in range(5)}, {}
        async for event in job.events():
            if isinstance(event, WrittenRows):
                assert event.image not in whole
                assert event.row == sum(part.shape[1] for part in rows[event.image])
                rows[event.image].append(event.levels)
            else:
                whole[event.image] = event.levels
        result = await job.result()
        for k in range(5):
            assert torch.equal(torch.cat(rows[k], dim=1), result[k])
            assert torch.equal(whole[k], result[k])
        assert all(isinstance(event, Finished) for event in [e async for e in others.events()])

    run()


@served
async def test_rows_of_one_image_come_in_several_events(start):
    model = model_of("pixelcnn", image_shape=(1, 64, 64))
    engine = await start(model, num_slots=16)
    job = engine.submit(images_of(1, 16), streams_rows=True)
    seen = [event.image async for event in job.events() if isinstance(event, WrittenRows)]
    assert len(seen) > 2 * 16


@served
async def test_cancelling_gives_slots_and_places_back_at_once(start):
    engine = await start(num_slots=4)
    job, other = engine.submit(large()), engine.submit(images_of(1, 1))
    await asyncio.sleep(0)
    job.cancel()
    assert engine.stats.queued_images + engine.stats.active_slots <= 1
    with pytest.raises(JobCancelled, match="the job must be let finish"):
        await job.result()
    with pytest.raises(JobCancelled):
        [event async for event in job.events()]
    expected = sample(model_of("pixelcnn"), image_seeds(1, 1))
    assert torch.equal(await other.result(), expected)
    job.cancel()
    other.cancel()
    assert (engine.stats.jobs_cancelled, engine.stats.jobs_finished) == (1, 1)


@served
async def test_a_job_that_is_cancelled_between_its_rows_leaves_the_slots_to_others(start):
    model = model_of("pixelcnn", image_shape=(1, 64, 64))
    engine = await start(model, num_slots=2)
    job = engine.submit(images_of(3, 2), streams_rows=True)
    async for _ in job.events():
        job.cancel()
        break
    assert engine.stats.active_slots == 0
    assert torch.equal(
        await engine.submit(images_of(1, 2)).result(), sample(model, image_seeds(1, 2))
    )


@served
async def test_a_large_job_does_not_keep_a_small_one_waiting(start):
    engine = await start(num_slots=2)
    big = engine.submit(large(200))
    small = engine.submit(images_of(1, 3))
    await small.result()
    assert not big.is_ended
    assert engine.stats.images < 3 + 3 + 2 * engine.stats.num_slots
    assert len(await big.result()) == 200


@served
async def test_the_queue_is_bounded_and_says_when_to_come_back(start):
    engine = await start(num_slots=2, max_queued_images=10)
    first = engine.submit(large(10))
    with pytest.raises(QueueFull, match="the queue must have room") as caught:
        engine.submit(images_of(1, 1))
    assert 1.0 <= caught.value.retry_after_s <= 60.0
    await first.result()
    assert len(await engine.submit(large(10)).result()) == 10
    with pytest.raises(ValueError, match="images must be 1 to 10, got 11"):
        engine.submit(large(11))
    with pytest.raises(ValueError, match="images must be 1 to 10, got 0"):
        engine.submit([])


@served
async def test_closing_finishes_what_was_accepted_and_refuses_the_rest(start):
    engine = Engine(model_of("pixelcnn"), num_slots=2)
    with pytest.raises(NotAccepting, match="the engine must accept work"):
        engine.submit(images_of(0, 1))
    engine = await start(num_slots=2)
    job = engine.submit(large())
    scores = asyncio.create_task(engine.score(torch.zeros(9, 1, 6, 5, dtype=torch.uint8)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    with pytest.raises(NotAccepting):
        engine.submit(images_of(0, 1))
    with pytest.raises(NotAccepting):
        await engine.score(torch.zeros(1, 1, 6, 5, dtype=torch.uint8))
    await closing
    assert torch.equal(await job.result(), sample(model_of("pixelcnn"), image_seeds(99, 40)))
    assert len(await scores) == 9


@served
async def test_closing_without_draining_ends_every_job(start):
    engine = await start(num_slots=2)
    job = engine.submit(large(500))
    while not engine.stats.active_slots:
        await asyncio.sleep(0)
    await engine.close(drain=False)
    with pytest.raises(JobCancelled, match="got a closing engine"):
        await job.result()


@served
async def test_an_image_that_cannot_be_made_fails_its_own_job_only(start):
    engine = await start(num_slots=3)
    good = engine.submit(large(5))
    bad = engine.submit([Image(1), Image(2**70), Image(2**71), Image(3)])
    with pytest.raises((RuntimeError, ValueError, OverflowError)):
        await bad.result()
    assert torch.equal(await good.result(), sample(model_of("pixelcnn"), image_seeds(99, 5)))
    engine.check_health()
    assert engine.stats.jobs_failed == 1


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (Image(0, class_label=3), "class_label must be None"),
        (Image(0, temperature=0.0), "temperature must be positive"),
        (Image(0, temperature=float("nan")), "temperature must be positive"),
        (Image(0, x=torch.zeros(1, 6, 5)), "x and observed must be given together"),
        (
            Image(0, x=torch.zeros(1, 5, 5), observed=torch.zeros(1, 6, 5, dtype=torch.bool)),
            r"x must be \(1, 6, 5\), got \(1, 5, 5\)",
        ),
        (
            Image(0, x=torch.full((1, 6, 5), 4), observed=torch.zeros(1, 6, 5, dtype=torch.bool)),
            r"x must hold levels in \[0, 3\], got 4",
        ),
    ],
)
def test_an_image_that_does_not_fit_the_model_is_refused(image, text):
    @served
    async def run(start):
        engine = await start(num_slots=1)
        with pytest.raises(ValueError, match=text):
            engine.submit([image])

    run()


@served
async def test_a_label_outside_the_classes_is_refused(start):
    engine = await start(model_of("gated_pixelcnn", num_classes=3), num_slots=1)
    for label in (None, 3, -1):
        with pytest.raises(ValueError, match=f"class_label must be 0 to 2, got {label}"):
            engine.submit([Image(0, class_label=label)])


def test_a_failed_step_fails_the_jobs_in_flight_and_the_engine_goes_on(monkeypatch):
    failures = 1
    advance = Stepper._advance

    def failing(stepper, num_pixels):
        nonlocal failures
        if failures and hasattr(stepper, "is_ready"):
            failures -= 1
            raise RuntimeError("planted")
        stepper.is_ready = True  # the first call is the start's
        advance(stepper, num_pixels)

    monkeypatch.setattr(Stepper, "_advance", failing)

    @served
    async def run(start):
        nonlocal failures
        engine = await start(num_slots=2)
        job = engine.submit(images_of(0, 1))
        with pytest.raises(RuntimeError, match="planted"):
            await job.result()
        engine.check_health()
        waiting = engine.submit(images_of(1, 3))
        assert torch.equal(await waiting.result(), sample(model_of("pixelcnn"), image_seeds(1, 3)))
        failures = 3
        for _ in range(3):
            with pytest.raises(RuntimeError, match="planted"):
                await engine.submit(images_of(0, 1)).result()
        with pytest.raises(ServingError, match="the engine must make images, got 3 failed steps"):
            engine.check_health()
        await engine.submit(images_of(0, 1)).result()
        engine.check_health()

    run()


@served
async def test_scores_are_the_models_and_come_while_images_are_made(start):
    model = model_of("gated_pixelcnn", num_classes=3)
    engine = await start(model, num_slots=2)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, NUM_LEVELS, (50, 1, 6, 5), generator=generator, dtype=torch.uint8)
    labels = torch.arange(50) % 3
    job = engine.submit([Image(k, class_label=0) for k in range(1000)])
    found = await engine.score(x, labels)
    # at most a step for each image that is scored, and two images for each step, however slow either is
    assert not job.is_ended
    assert torch.allclose(found, nats_map(model, x, labels), atol=1e-5)
    gone = asyncio.create_task(engine.score(x, labels))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(Exception, match="size"):
        await engine.score(x[:, :, :, :1], labels[:7])
    job.cancel()
    engine.check_health()
