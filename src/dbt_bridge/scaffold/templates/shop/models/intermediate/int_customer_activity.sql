-- Recency, frequency and value of every customer who has ordered.
with latest as (
    select max(ordered_at) as ordered_at from {{ ref('int_order_payments') }}
)

select
    orders.customer_id,
    count(*) as order_count,
    sum(orders.paid_amount)::decimal(18, 2) as lifetime_value,
    max(orders.ordered_at) as last_ordered_at,
    date_diff('day', max(orders.ordered_at), (select ordered_at from latest)) as days_since_order
from {{ ref('int_order_payments') }} as orders
where orders.order_status <> 'cancelled'
group by orders.customer_id
