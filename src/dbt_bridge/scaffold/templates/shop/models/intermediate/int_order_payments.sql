-- What was paid for each order, refunds taken off.
select
    orders.order_id,
    orders.customer_id,
    orders.order_status,
    orders.total_amount,
    orders.ordered_at,
    orders.updated_at,
    coalesce(sum(payments.amount) filter (where not payments.is_refunded), 0)::decimal(18, 2) as paid_amount,
    count(payments.payment_id) as payment_count
from {{ ref('stg_orders') }} as orders
left join {{ ref('stg_payments') }} as payments
    on payments.order_id = orders.order_id
group by all
