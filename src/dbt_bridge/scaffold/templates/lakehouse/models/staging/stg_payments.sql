select
    payment_id,
    order_id,
    amount,
    refunded as is_refunded,
    paid_at
from {{ source('shop', 'payments') }}
