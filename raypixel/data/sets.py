"""The data sets known by name, as `raypixel data list` shows them."""

from dataclasses import dataclass

DIGITS = tuple(str(digit) for digit in range(10))
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)  # fmt: skip


@dataclass(frozen=True)
class CatalogEntry:
    """Describe one data set before it is prepared.

    Attributes:
        name: What `raypixel data prepare` calls it.
        description: One line for a person.
        image_shape: (C, H, W).
        num_levels: Levels per sub-pixel, K.
        class_names: Empty when the images have no labels.
        splits: Number of images by split, after validation is carved from train.
        needs_source: True when it can only be prepared from files given with `--source`.
        source: What `--source` must point at; None when the set takes no source.
        download_bytes: Size of the download without `--source`; None when nothing is downloaded.
        takes_size: True when `--size` chooses the height and width.
    """

    name: str
    description: str
    image_shape: tuple[int, int, int]
    num_levels: int
    class_names: tuple[str, ...]
    splits: dict[str, int]
    needs_source: bool
    source: str | None
    download_bytes: int | None
    takes_size: bool = False


def catalog() -> tuple[CatalogEntry, ...]:
    """Return the data sets known by name; any other name means the user's own images."""
    return (
        CatalogEntry(
            name="digits",
            description="scikit-learn's 8x8 handwritten digits, no download",
            image_shape=(1, 8, 8),
            num_levels=17,
            class_names=DIGITS,
            splits={"train": 1297, "val": 250, "test": 250},
            needs_source=False,
            source=None,
            download_bytes=None,
        ),
        CatalogEntry(
            name="mnist",
            description="MNIST handwritten digits; the last 10,000 train images are val",
            image_shape=(1, 28, 28),
            num_levels=256,
            class_names=DIGITS,
            splits={"train": 50_000, "val": 10_000, "test": 10_000},
            needs_source=False,
            source="the folder of the four IDX files, gzipped or not",
            download_bytes=11_594_722,
        ),
        CatalogEntry(
            name="binarized_mnist",
            description="the fixed binarization of MNIST on which published nats are measured",
            image_shape=(1, 28, 28),
            num_levels=2,
            class_names=(),
            splits={"train": 50_000, "val": 10_000, "test": 10_000},
            needs_source=True,
            source="the folder of binarized_mnist_{train,valid,test}.amat, gzipped or not",
            download_bytes=None,
        ),
        CatalogEntry(
            name="cifar10",
            description="CIFAR-10 color photographs; the last 5,000 train images are val",
            image_shape=(3, 32, 32),
            num_levels=256,
            class_names=CIFAR10_CLASSES,
            splits={"train": 45_000, "val": 5_000, "test": 10_000},
            needs_source=False,
            source="a Hugging Face parquet folder, or the folder of cifar-10-batches-py",
            download_bytes=170_498_071,
        ),
        *(_imagenet(size) for size in (32, 64)),
        CatalogEntry(
            name="celeba",
            description="CelebA faces, the centered 140x140 pixels scaled to --size (64x64)",
            image_shape=(3, 64, 64),
            num_levels=256,
            class_names=(),
            splits={"train": 162_770, "val": 19_867, "test": 19_962},
            needs_source=True,
            source="the folder of img_align_celeba and, for the official splits, list_eval_partition.txt",
            download_bytes=None,
            takes_size=True,
        ),
    )


def _imagenet(size: int) -> CatalogEntry:
    return CatalogEntry(
        name=f"imagenet{size}",
        description=f"ImageNet scaled to {size}x{size}; the last 10,000 train images are val, val_data is test",
        image_shape=(3, size, size),
        num_levels=256,
        class_names=tuple(str(number) for number in range(1, 1001)),
        splits={"train": 1_271_167, "val": 10_000, "test": 50_000},
        needs_source=True,
        source="the folder of train_data_batch_1.npz to train_data_batch_10.npz and val_data.npz",
        download_bytes=None,
    )


def catalog_entry(name: str) -> CatalogEntry | None:
    """Return the entry of a name, or None for the user's own images."""
    return next((entry for entry in catalog() if entry.name == name), None)
