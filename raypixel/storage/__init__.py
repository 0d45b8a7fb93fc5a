"""Storage that all machines reach: objects under `s3://BUCKET/...`, beside folders of this machine.

A `Location` is a `Path` or a `Remote`. A Remote is a pure path, so nothing that opens files takes it by accident, which the
type checker sees; what is under it is worked on in a working copy on this machine and carried over whole objects at a time.
Not by `Path("s3://...")`, which becomes `s3:/...`, nor by a mounted or emulated file system: renaming a folder and links, on
which a checkpoint's completeness rests, have no counterpart there.

Settings are the AWS variables that every S3 tool reads. Of those pyarrow's own build does not read AWS_ENDPOINT_URL, so
it is handed over here; `access` carries them to workers of a cluster that was started without them.
"""

from raypixel.storage.connection import (
    Access,
    access,
)
from raypixel.storage.copies import local_file, local_files, put_copy, refresh
from raypixel.storage.objects import (
    arrow_files,
    check_bucket,
    delete,
    delete_folder,
    existing,
    exists,
    fetch,
    find,
    list_files,
    modified,
    names_in,
    ray_storage,
    read_bytes,
    remove,
    upload,
    write_bytes,
)
from raypixel.storage.places import (
    Location,
    Remote,
    absolute,
    cache_folder,
    inside,
    local_folder,
    location,
    named,
    working_copy,
)

__all__ = [
    "Access",
    "Location",
    "Remote",
    "absolute",
    "access",
    "arrow_files",
    "cache_folder",
    "check_bucket",
    "delete",
    "delete_folder",
    "existing",
    "exists",
    "fetch",
    "find",
    "inside",
    "list_files",
    "local_file",
    "local_files",
    "local_folder",
    "location",
    "modified",
    "named",
    "names_in",
    "put_copy",
    "ray_storage",
    "read_bytes",
    "refresh",
    "remove",
    "upload",
    "working_copy",
    "write_bytes",
]
