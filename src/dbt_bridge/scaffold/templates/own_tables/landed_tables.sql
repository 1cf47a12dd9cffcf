-- How many rows every table has: a first model, to be replaced by yours.
<% for one in staged %>
select '<%= one.model %>' as model, count(*) as row_count from {{ ref('<%= one.model %>') }}
<% if not loop.last %>
union all
<% endif %>
<% endfor %>
