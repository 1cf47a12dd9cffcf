select
    order_id,
    customer_id,
    address_id,
    status as order_status,
    total_amount,
    ordered_at,
    shipped_at,
    updated_at
from {{ source('shop', 'orders') }}
