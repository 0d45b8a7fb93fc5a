"""scikit-learn's handwritten digits: 1,797 images of 8x8 with 17 levels, inside the package.

The split is a permutation of our own, fixed by a seed whose stream NumPy has frozen: 1,297 / 250 / 250.
"""

import numpy as np

from raypixel.data.catalog import DIGITS
from raypixel.data.sources.raw import RawSet, array_split

_BOUNDS = {"train": slice(0, 1297), "val": slice(1297, 1547), "test": slice(1547, 1797)}


def read_digits() -> RawSet:
    """Read the digits and split them."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.RandomState(0).permutation(len(bunch.target))
    images = bunch.images.astype(np.uint8)[order, None]
    labels = bunch.target.astype(np.int64)[order]
    return RawSet(
        image_shape=(1, 8, 8),
        num_levels=17,
        class_names=DIGITS,
        splits={name: array_split(images[part], labels[part]) for name, part in _BOUNDS.items()},
    )
