select
    product_id,
    sku,
    name as product_name,
    category,
    price as list_price,
    labels,
    discontinued_at is not null as is_discontinued
from {{ source('shop', 'products') }}
