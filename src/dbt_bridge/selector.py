"""How dbt's selectors name a node, so that a command that a message suggests can be run as it stands."""

from __future__ import annotations

import re
import shlex

# dbt splits selectors at blanks and commas, walks the graph at + and @, and reads the others as a glob, which they fit.
_READ_BY_DBT = re.compile(r"[\s,+@*?\[\]]")


def selector(node: str) -> str:
    """dbt's selector of a unique_id, quoted for a shell: `source:shop.orders`, `exposure:crm`, `dim_customers`.

    A character of the name that dbt would read otherwise is a `?`, which stands for any one.
    """
    kind, _, rest = node.partition(".")
    chosen = _READ_BY_DBT.sub("?", rest.partition(".")[2] or node)  # without the package's name
    if kind == "source":  # of its name's dots only the first parts source and table
        source, dot, table = chosen.partition(".")
        chosen = source + dot + table.replace(".", "?")
    return shlex.quote(chosen if kind in ("model", "seed", "snapshot") else f"{kind}:{chosen}")
