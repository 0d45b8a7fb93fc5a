"""What the laws do not say of Diagonal BiLSTM: why the right-to-left gates read the image."""

import torch

from raypixel.models.diagonal_bilstm import DiagonalBiLSTM
from tests.contract import random_model
from tests.test_laws import pixels_seen

CONFIG = DiagonalBiLSTM.Config(hidden_size=6, num_layers=2, output_size=8)
SHAPE = (1, 3, 9)


def seen(row, column, *, is_as_drawn):
    """Return what is seen at a pixel; as drawn in the paper, the gates do not read the image itself."""
    result = torch.zeros(SHAPE[1:], dtype=torch.bool)
    for seed in range(4):
        model = random_model(CONFIG, image_shape=SHAPE, num_levels=4, seed=seed)
        if is_as_drawn:
            with torch.no_grad():
                model.stack.layers[0].levels_to_state.weight.zero_()
        result |= pixels_seen(model, row, column, seed=seed)
    return result


def test_as_drawn_in_the_paper_the_last_pixel_of_the_row_above_is_blind():
    full, as_drawn = seen(2, 1, is_as_drawn=False), seen(2, 1, is_as_drawn=True)
    assert (full & ~as_drawn).nonzero().tolist() == [[1, 8]]
    assert full[:2].all()


def test_only_the_first_block_reads_the_image():
    model = random_model(CONFIG, image_shape=SHAPE, num_levels=4)
    assert [block.levels_to_state is not None for block in model.stack.layers] == [True, False]
