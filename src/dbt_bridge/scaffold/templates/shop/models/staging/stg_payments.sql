select
    payment_id,
    order_id,
    method as payment_method,
    amount,
    refunded as is_refunded,
    paid_at
from {{ source('shop', 'payments') }}
