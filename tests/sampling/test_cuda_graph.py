"""Steps captured once and replayed at every position: what a GPU does with a CUDA graph, here with a list of operations."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raypixel.sampling import CachedSampler, Image, cuda_graph, image_seeds, sample
from tests.contract import VARIANTS, labels_for, random_model

NUM_LEVELS = 4


class Tape(TorchDispatchMode):
    """The operations of an action with the tensors they read and write; done again, they see only these tensors."""

    def __init__(self, action, device):
        super().__init__()
        self.calls = []
        self.num_replays = 0
        self._is_done = True  # capturing it did it
        with self:
            action()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def __call__(self):
        self.num_replays += 1
        if self._is_done:
            self._is_done = False
            return
        for func, args, kwargs, before in self.calls:
            after = func(*args, **kwargs)
            for kept, fresh in zip(tree_leaves(before), tree_leaves(after), strict=True):
                if kept.data_ptr() != fresh.data_ptr():
                    kept.copy_(fresh)


@pytest.fixture
def tapes(monkeypatch):
    """Capture as on a GPU; the tapes that were made."""
    made = []

    def capture(action, device):
        made.append(Tape(action, device))
        return made[-1]

    monkeypatch.setattr(cuda_graph, "is_available", lambda device: True)
    monkeypatch.setattr(cuda_graph, "_warm_up", lambda action, device: action())
    monkeypatch.setattr(cuda_graph, "capture", capture)
    return made


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_replayed_steps_make_the_oracles_images(config, tapes):
    """Three images, of which one joins later and one is partly observed."""
    model = random_model(config, image_shape=(3, 6, 4), num_levels=NUM_LEVELS)
    seeds, labels = image_seeds(0, 3), labels_for(model, 3)
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, NUM_LEVELS, (3, 3, 6, 4), generator=generator, dtype=torch.uint8)
    observed = torch.rand(x.shape, generator=generator) < 0.3
    observed[0] = False
    expected = sample(model, seeds, class_labels=labels, x=x, observed=observed, sampler="oracle")
    slots = CachedSampler(model, 3, implementation="cuda_graph")

    def image(k: int) -> Image:
        return Image(seeds[k], None if labels is None else int(labels[k]), 1.0, x[k], observed[k])

    slots.admit([0, 2], [image(0), image(2)])
    slots.advance(7)
    slots.admit([1], [image(1)])
    for _ in range(200):
        slots.advance(5)
        if len(slots.finished()) == 3:
            break
    assert torch.equal(slots.x, expected)
    assert max(tape.num_replays for tape in tapes) >= 20  # all pixels of a stage but its first
    assert len(tapes) == 2 * len(slots.stages)  # a pixel and a row's begin
