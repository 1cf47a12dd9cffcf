"""Customers in four groups of like behaviour: k-means over recency, frequency and value, with numpy alone."""

import numpy as np
import pyarrow as pa

SEGMENTS = ["occasional", "regular", "loyal", "champion"]  # by the value of a group's average customer


def model(dbt, session):
    dbt.config(materialized="table")
    customers = dbt.ref("int_customer_activity").to_arrow_table()
    if customers.num_rows < len(SEGMENTS):
        labels = np.zeros(customers.num_rows, dtype=int)
    else:
        labels = k_means(features_of(customers), len(SEGMENTS))
    segments = pa.array([SEGMENTS[label] for label in labels], pa.string())
    return pa.table({"customer_id": customers["customer_id"], "segment": segments})


def features_of(customers):
    """One row per customer: recency, frequency and value on a log scale, with mean 0 and deviation 1."""
    columns = ["days_since_order", "order_count", "lifetime_value"]
    raw = np.column_stack([customers[name].cast(pa.float64()).to_numpy() for name in columns])
    logs = np.log1p(np.maximum(raw, 0))
    deviation = logs.std(axis=0)
    return (logs - logs.mean(axis=0)) / np.where(deviation == 0, 1, deviation)


def k_means(points, groups, rounds=100):
    """The group of each point, groups sorted by value. Starts from quantiles of value, so it repeats exactly."""
    order = np.argsort(points[:, 2], kind="stable")
    centres = points[order[np.linspace(0, len(points) - 1, 2 * groups + 1).astype(int)[1::2]]]
    labels = np.full(len(points), -1)
    for _ in range(rounds):
        distances = ((points[:, None, :] - centres[None, :, :]) ** 2).sum(axis=2)
        nearest = distances.argmin(axis=1)
        if (nearest == labels).all():
            break
        labels = nearest
        members = [points[labels == group] for group in range(groups)]
        centres = np.array([own.mean(axis=0) if len(own) else old for own, old in zip(members, centres, strict=True)])
    rank = np.argsort(np.argsort(centres[:, 2], kind="stable"))
    return rank[labels]
