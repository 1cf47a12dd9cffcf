"""Where tables lie in a lake: a folder per dataset and one per table below it, local or in an object store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.table import TableName


@dataclass(frozen=True, slots=True)
class Lake:
    """A bucket or folder.

    Attributes:
        url: a local path, or `s3://bucket/folder`, `az://`, `gs://`, ...
        storage_options: object_store's names of the credentials; never printed.
    """

    url: str
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_local(self) -> bool:
        return "://" not in self.url

    def folder(self, name: TableName) -> str:
        """The table's folder.

        Raises:
            UsageError: a name that is no single folder.
        """
        for part in (name.schema, name.name):
            if (
                not part
                or part in (".", "..")
                or re.search(r"[/\\\0]|%[0-9A-Fa-f]{2}", part)
                or len(part.encode()) > 255
            ):
                raise UsageError(f"{name}: {part!r} cannot be the name of a folder", mend="give the table another name")
        return f"{self.url.rstrip('/')}/{name.schema}/{name.name}"


def lake_of(configuration: Any) -> Lake:
    """The lake of dlt's filesystem configuration."""
    url = str(configuration.bucket_url)
    if "://" not in url:
        return Lake(str(Path(url).expanduser().resolve()))
    if url.startswith("file://"):
        return Lake(configuration.make_local_path(url))
    credentials = configuration.credentials
    options: dict[str, Any] = {}
    if hasattr(credentials, "to_object_store_rs_credentials"):
        options |= credentials.to_object_store_rs_credentials()
    options |= configuration.deltalake_storage_options or {}
    return Lake(url, {key: str(value) for key, value in options.items() if value is not None})
