select
    order_id,
    line_number,
    product_id,
    quantity,
    (quantity * unit_price * (1 - discount))::decimal(18, 2) as line_amount
from {{ source('shop', 'order_items') }}
