import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from raypixel.errors import RaypixelError
from raypixel.figures.files import Animation
from raypixel.grids import image_grid


def images_of(count, shape, num_levels=256, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, num_levels, (count, *shape), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_shows_its_pictures_in_turn(tmp_path, channels):
    pictures = [
        image_grid(images_of(2, (channels, 8, 8), 4, seed=k), num_levels=4) for k in range(3)
    ]
    pictures.append(pictures[-1])  # nothing changes, it is held all the same
    with Animation(tmp_path / "new" / "x.gif", seconds_each=0.1) as animation:
        for picture in pictures:
            animation.add(picture)
    with Image.open(tmp_path / "new" / "x.gif") as gif:
        assert (gif.n_frames, gif.info["loop"]) == (4, 0)
        for k, picture in enumerate(pictures):
            gif.seek(k)
            shown = np.array(gif.convert("RGB")).astype(int)
            assert np.abs(shown - np.array(picture.convert("RGB"))).max() <= (
                0 if channels == 1 else 8
            )
            assert gif.info["duration"] == (2000 if k == 3 else 100)


def test_an_animation_keeps_two_pictures_whatever_its_length(tmp_path):
    given = []
    with Animation(tmp_path / "x.gif", seconds_each=0.1) as animation:
        for k in range(12):
            picture = image_grid(images_of(2, (1, 8, 8), seed=k), num_levels=256)
            given.append(weakref.ref(picture))
            animation.add(picture)
            del picture
            assert sum(each() is not None for each in given) <= 2


def test_an_animation_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(RaypixelError, match=r"animation must end in .gif, got 'x.png'"):
        Animation(tmp_path / "x.png", seconds_each=1)
    (tmp_path / "x.gif").mkdir()
    with pytest.raises(RaypixelError, match=r"x.gif: cannot be written \(Is a directory\)"):
        Animation(tmp_path / "x.gif", seconds_each=1)
