-- Orders with what was paid. Only orders that changed since the last build are computed again; those that the shop
-- erased go away first.
-- depends_on: {{ ref('stg_orders') }}
{{ config(
    materialized='incremental',
    unique_key='order_id',
    incremental_strategy='delete+insert',
    pre_hook="{% if is_incremental() %}delete from {{ this }} where order_id not in (select order_id from {{ ref('stg_orders') }}){% endif %}"
) }}

select
    orders.order_id,
    orders.customer_id,
    orders.order_status,
    orders.ordered_at,
    orders.updated_at,
    orders.total_amount,
    orders.paid_amount,
    items.item_count,
    items.quantity
from {{ ref('int_order_payments') }} as orders
left join (
    select
        order_id,
        count(*) as item_count,
        sum(quantity) as quantity
    from {{ ref('stg_order_items') }}
    group by order_id
) as items
    on items.order_id = orders.order_id

{% if is_incremental() %}
where orders.updated_at >= (select max(updated_at) from {{ this }})
{% endif %}
