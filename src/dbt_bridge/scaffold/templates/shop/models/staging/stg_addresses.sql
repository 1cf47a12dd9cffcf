select
    address_id,
    customer_id,
    kind as address_kind,
    street,
    city,
    postal_code,
    trim(country) as country_code
from {{ source('shop', 'addresses') }}
