-- The lines of an order add up to its total, to the cent.
select
    orders.order_id,
    orders.total_amount,
    sum(items.line_amount) as items_amount
from {{ ref('stg_orders') }} as orders
inner join {{ ref('stg_order_items') }} as items
    on items.order_id = orders.order_id
group by all
having sum(items.line_amount) <> orders.total_amount
