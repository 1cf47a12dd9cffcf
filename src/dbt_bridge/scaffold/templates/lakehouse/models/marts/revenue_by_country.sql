select
    customers.country_code,
    count(*) as order_count,
    sum(orders.paid_amount)::decimal(18, 2) as revenue
from {{ ref('fct_orders') }} as orders
inner join {{ ref('stg_customers') }} as customers
    on customers.customer_id = orders.customer_id
group by customers.country_code
