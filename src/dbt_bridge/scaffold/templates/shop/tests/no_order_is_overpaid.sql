-- Nobody pays more than the order costs.
select
    order_id,
    total_amount,
    paid_amount
from {{ ref('int_order_payments') }}
where paid_amount > total_amount
