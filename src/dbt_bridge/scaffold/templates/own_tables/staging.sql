select
    <%= one.columns | join(",\n    ") %>
from {{ source('<%= source %>', '<%= one.name %>') }}
