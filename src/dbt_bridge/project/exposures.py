"""Exposures with a `bridge` block: what is delivered, and which tests guard it."""

from __future__ import annotations

from difflib import get_close_matches

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.bridge_keys import DeliveryKeys
from dbt_bridge.nouns.graph import HOOK, Graph, Node
from dbt_bridge.nouns.project import Delivery
from dbt_bridge.project.bridge_block import read_delivery_block, select_keys
from dbt_bridge.project.relations import RelationReader


def list_deliveries(graph: Graph, reader: RelationReader) -> tuple[Delivery, ...]:
    """The exposures that are delivered, by name.

    Raises:
        UsageError: a `bridge` block is wrong, or it is not clear which model it delivers.
    """
    bridged = (exposure for exposure in graph.list_nodes("exposure") if "bridge" in exposure.meta)
    return tuple(_make_delivery(exposure, graph, reader) for exposure in sorted(bridged, key=lambda e: e.unique_id))


def _make_delivery(exposure: Node, graph: Graph, reader: RelationReader) -> Delivery:
    where = f"exposure {exposure.name} ({exposure.path})"
    keys = read_delivery_block(exposure.meta["bridge"], where)
    model = graph.nodes[_find_model(exposure, keys.model, graph, where)]
    if model.is_ephemeral:
        raise UsageError(
            f"{where}: {model.name} is ephemeral, so there is no relation to deliver",
            mend=f"materialize {model.name} as a view or table",
        )
    upstream = graph.list_ancestors(exposure.unique_id)
    gates = _list_gates(upstream, graph)
    resolved = {
        **select_keys(DeliveryKeys, keys),
        "model": model.unique_id,
        "schema": keys.schema or model.schema,
        "table": keys.table or exposure.name,
    }
    return Delivery(
        node=exposure.unique_id,
        name=exposure.name,
        relation=reader.read(model.relation_name, where),
        # An ephemeral model is part of its children and has no result of its own; its tests have one.
        ancestors=frozenset(node for node in upstream if not _is_ephemeral(graph, node)),
        gates=gates,
        relations={node: graph.nodes[node].relation_name for node in upstream if node in graph.nodes},
        hooks=frozenset(hook.unique_id for hook in graph.list_nodes(HOOK)),
        tested={test: _list_tested(test, graph) for test in gates if graph.nodes[test].kind == "test"},
        **resolved,
    )


def _find_model(exposure: Node, named: str | None, graph: Graph, where: str) -> str:
    """unique_id of the one node that is delivered: the only one it depends on, or the one that `model` names.

    The name of a model with versions means its latest one, as `ref` does; `dim.v1` means that one.
    """
    parents = [graph.nodes[parent] for parent in graph.list_parents(exposure.unique_id)]
    candidates = [parent for parent in parents if parent.is_built]
    if not candidates:
        raise UsageError(f"{where}: it depends on no model", mend="add depends_on: [ref('your_model')]")
    names = ", ".join(sorted(map(_describe_version, candidates)))
    if named is None:
        if len(candidates) == 1:
            return candidates[0].unique_id
        raise UsageError(
            f"{where}: it depends on several models ({names}), and only one can be delivered",
            mend="say which with `model: ...` in its config.meta.bridge",
        )
    meant = [one for one in candidates if named in (one.name, one.unique_id, _describe_version(one))]
    if len(meant) > 1:
        meant = [one for one in meant if one.is_latest_version]
        if len(meant) != 1:
            raise UsageError(
                f"{where}: `model: {named}` may be any of {names}, and none of them alone is the latest version",
                mend=f"write `model: {_describe_version(candidates[0])}`, or the unique_id of the one that is meant",
            )
    if meant:
        return meant[0].unique_id
    nearest = get_close_matches(named, [*(one.name for one in candidates), *map(_describe_version, candidates)], n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise UsageError(
        f"{where}: `model: {named}` is not among what it depends on",
        mend=f"{hint}add it to depends_on, or name one of {names}",
    )


def _describe_version(node: Node) -> str:
    return node.name if node.version is None else f"{node.name}.v{node.version}"


def _is_ephemeral(graph: Graph, node: str) -> bool:
    found = graph.nodes.get(node)
    return found is not None and found.is_ephemeral


def _list_tested(test: str, graph: Graph) -> frozenset[str]:
    """The nodes whose rows a test sees: what it reads, and where that is a view, what stands behind it."""
    seen: set[str] = set()
    waiting = list(graph.list_read(test))
    while waiting:
        node = graph.nodes[waiting.pop()]
        if node.is_built and node.unique_id not in seen:
            seen.add(node.unique_id)
            waiting += () if node.is_stored else graph.list_read(node.unique_id)
    return frozenset(seen)


def _list_gates(ancestors: frozenset[str], graph: Graph) -> frozenset[str]:
    """The tests on these nodes.

    A generic test guards the node that it is attached to: a `relationships` test of a later model that only refers
    to an ancestor says nothing about the ancestor. Singular tests are attached to nothing and guard all they read.
    """
    return frozenset(
        test.unique_id
        for test in graph.list_nodes("test", "unit_test")
        if (test.attached_node in ancestors if test.attached_node else not ancestors.isdisjoint(test.depends_on))
    )
