"""How dbt's selectors name a node, so that a command that a message suggests can be run as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable

# dbt splits selectors at blanks and commas, walks the graph at + and @, and reads the others as a glob, which they fit.
_READ_BY_DBT = re.compile(r"[\s,+@*?\[\]]")
_OTHER = "[!a-zA-Z0-9_]"  # a `?` would take `order_items` for `order items`, and copy or repair that too


def format_shell_selector(node: str) -> str:
    """dbt's selector of a unique_id, quoted for a shell: `source:shop.orders`, `exposure:crm`, `dim_customers`."""
    import shlex  # not with the package, which dbt imports at each start

    return shlex.quote(format_selector(node))


def format_fqn(fqn: Iterable[str]) -> str:
    """dbt's selector of a node's fully qualified name: packages may have models of one name, and versions share theirs.

    It takes what lies in a folder of that name too.
    """
    return f"fqn:{_READ_BY_DBT.sub(_OTHER, '.'.join(fqn))}"


def format_selector(node: str) -> str:
    """dbt's selector of a unique_id.

    In place of a character that dbt would read otherwise stands any one that is no letter, digit or underscore.
    """
    kind, _, rest = node.partition(".")
    chosen = _READ_BY_DBT.sub(_OTHER, rest.partition(".")[2] or node)  # without the package's name
    if kind == "source":  # of its name's dots only the first parts source and table
        source, dot, table = chosen.partition(".")
        chosen = source + dot + table.replace(".", _OTHER)
    return chosen if kind in ("model", "seed", "snapshot") else f"{kind}:{chosen}"
