-- One row per customer, with where they live, what they bought and the segment that follows from it.
select
    customers.customer_id,
    customers.full_name,
    customers.email,
    countries.country_name,
    countries.region,
    customers.has_newsletter,
    coalesce(activity.order_count, 0) as order_count,
    coalesce(activity.lifetime_value, 0)::decimal(18, 2) as lifetime_value,
    activity.last_ordered_at,
    coalesce(clusters.segment, 'prospect') as segment
from {{ ref('stg_customers') }} as customers
left join {{ ref('countries') }} as countries
    on countries.country_code = customers.country_code
left join {{ ref('int_customer_activity') }} as activity
    on activity.customer_id = customers.customer_id
left join {{ ref('customer_clusters') }} as clusters
    on clusters.customer_id = customers.customer_id
