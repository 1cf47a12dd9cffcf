"""Files in folders, on a disk or in an object store.

[destination.lake]
destination_type = "filesystem"
bucket_url = "s3://bucket/folder"
table_format = "delta"              # the default, as transactions are; or "parquet"
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_bridge.contracts.connector import Connector
from dbt_bridge.contracts.settings import DestinationSettings
from dbt_bridge.errors import UsageError, require_extra
from dbt_bridge.nouns.names import FILES

if TYPE_CHECKING:
    from dbt_bridge.connectors.lake.delta.destination import DeltaDestination
    from dbt_bridge.connectors.lake.parquet import ParquetDestination

_EXTRA = "filesystem"


def _open_destination(settings: DestinationSettings) -> DeltaDestination | ParquetDestination:
    configuration = settings.dlt_configuration()
    table_format = settings.find_setting("table_format") or "delta"
    if table_format not in ("delta", "parquet"):
        raise UsageError(
            f"the destination {settings.name!r} has table_format = {table_format!r}",
            mend='write table_format = "delta" or "parquet"',
        )
    if table_format == "parquet":
        from dbt_bridge.connectors.lake.parquet import ParquetDestination

        return ParquetDestination.of(settings.name, configuration)
    with require_extra(_EXTRA, f"the Delta destination {settings.name!r}"):
        import deltalake  # noqa: F401
    from dbt_bridge.connectors.lake.delta.destination import DeltaDestination

    return DeltaDestination.of(settings.name, configuration)


LAKE = Connector(
    name="lake",
    destination_types=frozenset({"filesystem"}),
    names={"filesystem": FILES},
    extra=_EXTRA,
    open_destination=_open_destination,
    identify_destination=lambda settings: ("filesystem", str(settings.dlt_configuration().bucket_url)),
)
