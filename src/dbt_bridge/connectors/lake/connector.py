"""Files in folders, on a disk or in an object store.

[destination.lake]
destination_type = "filesystem"
bucket_url = "s3://bucket/folder"
table_format = "delta"              # the default, as transactions are; or "parquet"
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from dbt_bridge.contracts.connector import Connector, DeliveryKind
from dbt_bridge.contracts.settings import DestinationSettings
from dbt_bridge.errors import UsageError, require_extra
from dbt_bridge.nouns.names import FILES

if TYPE_CHECKING:
    from dbt_bridge.connectors.lake.delta.destination import DeltaDestination
    from dbt_bridge.connectors.lake.location import Lake
    from dbt_bridge.connectors.lake.parquet import ParquetDestination

_EXTRA = "filesystem"
_PLAIN_PATH = re.compile(r"/?(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/)*[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def _open_destination(settings: DestinationSettings) -> DeltaDestination | ParquetDestination:
    table_format = settings.find_setting("table_format") or "delta"
    if table_format not in ("delta", "parquet"):
        raise UsageError(
            f"the destination {settings.name!r} has table_format = {table_format!r}",
            mend='write table_format = "delta" or "parquet"',
        )
    if table_format == "parquet":
        from dbt_bridge.connectors.lake.parquet import ParquetDestination

        return ParquetDestination.of(settings.name, settings.dlt_configuration())
    with require_extra(_EXTRA, f"the Delta destination {settings.name!r}"):
        import deltalake  # noqa: F401
    from dbt_bridge.connectors.lake.delta.destination import DeltaDestination

    return DeltaDestination(settings.name, _find_lake(settings))


def _find_lake(settings: DestinationSettings) -> Lake:
    """Where it lies: read without dlt where `bucket_url` is a path of plain letters, of a folder of this machine."""
    from dbt_bridge.connectors.lake.location import Lake, lake_of

    path = settings.find_alone("bucket_url")
    if path is None or settings.project_root is None or not _PLAIN_PATH.fullmatch(path):
        return lake_of(settings.dlt_configuration())
    return Lake(os.path.realpath(settings.project_root / path))


def _identify(settings: DestinationSettings) -> tuple[str, str]:
    lake = _find_lake(settings)
    return "filesystem", os.path.realpath(lake.url) if lake.is_local else lake.url


def _find_refusal(kind: DeliveryKind) -> str:
    if kind.write_disposition == "merge" and kind.find_setting("table_format") == "parquet":
        return "a merge must change single rows, and Parquet files cannot"
    return ""


LAKE = Connector(
    name="lake",
    destination_types=frozenset({"filesystem"}),
    names={"filesystem": FILES},
    extra=_EXTRA,
    open_destination=_open_destination,
    find_refusal=_find_refusal,
    identify_destination=_identify,
)
