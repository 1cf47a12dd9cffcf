select
    customer_id,
    full_name,
    email as email_hash,            -- masked before it left the shop: equal values still join
    trim(country) as country_code,
    created_at,
    updated_at
from {{ source('shop', 'customers') }}
