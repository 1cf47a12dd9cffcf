select
    customer_id,
    customer_uuid,
    full_name,
    lower(email) as email,
    trim(country) as country_code,
    tags,
    json_extract_string(preferences, '$.language') as language,
    birth_date,
    credit_limit,
    newsletter as has_newsletter,
    created_at at time zone 'UTC' as created_at,
    updated_at at time zone 'UTC' as updated_at     -- dbt's snapshots count in timestamps without a zone
from {{ source('shop', 'customers') }}
