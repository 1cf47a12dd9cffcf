-- What the CRM gets: every customer who can be written to.
select
    customer_id,
    email,
    full_name,
    segment,
    order_count,
    lifetime_value,
    last_ordered_at
from {{ ref('dim_customers') }}
where email is not null
