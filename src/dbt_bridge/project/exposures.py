"""Exposures with a `bridge` block: what is delivered, and which tests guard it."""

from __future__ import annotations

from difflib import get_close_matches

from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.graph.nodes import Exposure, GenericTestNode, SingularTestNode

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.bridge_keys import DeliveryKeys
from dbt_bridge.nouns.project import Delivery
from dbt_bridge.project.bridge_block import read_delivery_block, select_keys

_DELIVERABLE = ("model.", "seed.", "snapshot.")


def list_deliveries(manifest: Manifest) -> tuple[Delivery, ...]:
    """The exposures that are delivered, by name.

    Raises:
        UsageError: a `bridge` block is wrong, or it is not clear which model it delivers.
    """
    bridged = (e for e in manifest.exposures.values() if "bridge" in {**e.meta, **e.config.meta})
    return tuple(_make_delivery(exposure, manifest) for exposure in sorted(bridged, key=lambda e: e.unique_id))


def _make_delivery(exposure: Exposure, manifest: Manifest) -> Delivery:
    where = f"exposure {exposure.name} ({exposure.original_file_path})"
    keys = read_delivery_block({**exposure.meta, **exposure.config.meta}["bridge"], where)
    model = manifest.nodes[_find_model(exposure, keys.model, manifest, where)]
    if model.config.materialized == "ephemeral":
        raise UsageError(
            f"{where}: {model.name} is ephemeral, so there is no relation to deliver",
            mend=f"materialize {model.name} as a view or table",
        )
    upstream = _list_upstream(exposure, manifest)
    resolved = {
        **select_keys(DeliveryKeys, keys),
        "model": model.unique_id,
        "schema": keys.schema or model.schema,
        "table": keys.table or exposure.name,
    }
    return Delivery(
        node=exposure.unique_id,
        name=exposure.name,
        relation_schema=model.schema,
        relation_name=model.alias,
        relation_database=model.database,
        # An ephemeral model is part of its children and has no result of its own; its tests have one.
        ancestors=frozenset(node for node in upstream if not _is_ephemeral(manifest, node)),
        gates=_list_gates(upstream, manifest),
        **resolved,
    )


def _find_model(exposure: Exposure, named: str | None, manifest: Manifest, where: str) -> str:
    """unique_id of the one node that is delivered: the only one it depends on, or the one that `model` names."""
    candidates = {
        node: manifest.nodes[node].name for node in exposure.depends_on.nodes if node.startswith(_DELIVERABLE)
    }
    if not candidates:
        raise UsageError(f"{where}: it depends on no model", mend="add depends_on: [ref('your_model')]")
    if named is None:
        if len(candidates) == 1:
            return next(iter(candidates))
        names = ", ".join(sorted(candidates.values()))
        raise UsageError(
            f"{where}: it depends on several models ({names}), and only one can be delivered",
            mend="say which with `model: ...` in its config.meta.bridge",
        )
    for node, name in candidates.items():
        if named in (name, node):
            return node
    nearest = get_close_matches(named, candidates.values(), n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise UsageError(
        f"{where}: `model: {named}` is not among what it depends on",
        mend=f"{hint}add it to depends_on, or name one of {', '.join(sorted(candidates.values()))}",
    )


def _list_upstream(exposure: Exposure, manifest: Manifest) -> frozenset[str]:
    seen: set[str] = set()
    waiting = list(exposure.depends_on.nodes)
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        parent = manifest.nodes.get(node)
        waiting += parent.depends_on_nodes if parent is not None else []
    return frozenset(seen)


def _is_ephemeral(manifest: Manifest, node: str) -> bool:
    found = manifest.nodes.get(node)
    return found is not None and found.config.materialized == "ephemeral"


def _list_gates(ancestors: frozenset[str], manifest: Manifest) -> frozenset[str]:
    """The tests on these nodes.

    A generic test guards the node that it is attached to: a `relationships` test of a later model that only refers
    to an ancestor says nothing about the ancestor. Singular tests are attached to nothing and guard all they read.
    """
    gates: set[str] = set()
    for node in manifest.nodes.values():
        if not isinstance(node, GenericTestNode | SingularTestNode):
            continue
        attached = node.attached_node if isinstance(node, GenericTestNode) else None
        if attached in ancestors if attached is not None else not ancestors.isdisjoint(node.depends_on_nodes):
            gates.add(node.unique_id)
    gates.update(u.unique_id for u in manifest.unit_tests.values() if not ancestors.isdisjoint(u.depends_on.nodes))
    return frozenset(gates)
