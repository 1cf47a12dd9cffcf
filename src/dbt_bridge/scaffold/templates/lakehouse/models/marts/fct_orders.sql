with items as (
    select order_id, count(*) as item_count, sum(line_amount) as items_amount
    from {{ ref('stg_order_items') }}
    group by order_id
),

payments as (
    select order_id, sum(amount) filter (where not is_refunded) as paid_amount
    from {{ ref('stg_payments') }}
    group by order_id
)

select
    orders.*,
    items.item_count,
    items.items_amount,
    coalesce(payments.paid_amount, 0)::decimal(18, 2) as paid_amount
from {{ ref('stg_orders') }} as orders
left join items on items.order_id = orders.order_id
left join payments on payments.order_id = orders.order_id
