select
    products.product_id,
    products.product_name,
    products.category,
    count(distinct items.order_id) as order_count,
    coalesce(sum(items.quantity), 0) as quantity,
    coalesce(sum(items.line_amount), 0)::decimal(18, 2) as revenue
from {{ ref('stg_products') }} as products
left join {{ ref('stg_order_items') }} as items
    on items.product_id = products.product_id
group by all
