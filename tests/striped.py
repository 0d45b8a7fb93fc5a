"""A prepared set whose shards have several small blocks, as only a set of gigabytes has them otherwise."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raypixel.data import Manifest, Origin, ShardInfo, SplitInfo
from raypixel.data.sources.raw import file_sha256


def write_striped(
    root: Path,
    *,
    shards: dict[str, tuple[int, ...]],
    block_images: int,
    image_shape: tuple[int, int, int],
    num_levels: int = 256,
) -> Manifest:
    """Write the set `striped`; the label of an image is its position, modulo 100."""
    folder = root / "striped"
    folder.mkdir()
    splits = {}
    for name, counts in shards.items():
        files, start = [], 0
        for number, count in enumerate(counts):
            path = folder / f"{name}-{number:05d}-of-{len(counts):05d}.parquet"
            table = _table(name, range(start, start + count), image_shape, num_levels)
            pq.write_table(table, path, row_group_size=block_images, write_page_checksum=True)
            files.append(
                ShardInfo(
                    name=path.name,
                    num_images=count,
                    num_bytes=path.stat().st_size,
                    sha256=file_sha256(path),
                )
            )
            start += count
        splits[name] = SplitInfo(num_images=start, files=tuple(files))
    manifest = Manifest(
        name="striped",
        format_version=1,
        image_shape=image_shape,
        num_levels=num_levels,
        num_classes=100,
        class_names=tuple(map(str, range(100))),
        splits=splits,
        origin=Origin(source="test"),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return manifest


def _table(name: str, numbers: range, image_shape: tuple[int, int, int], num_levels: int):
    num_dims = torch.Size(image_shape).numel()
    generator = torch.Generator().manual_seed(numbers.start + 10**6 * len(name))
    images = torch.randint(
        0, num_levels, (len(numbers), num_dims), generator=generator, dtype=torch.uint8
    )
    storage = pa.FixedSizeListArray.from_arrays(pa.array(images.numpy().reshape(-1)), num_dims)
    kind = pa.fixed_shape_tensor(pa.uint8(), image_shape)
    labels = pa.array([number % 100 for number in numbers], pa.int64())
    indices = pa.array(numbers, pa.int64())
    image = pa.ExtensionArray.from_storage(kind, storage)
    return pa.table({"image": image, "label": labels, "index": indices})
