"""dbt's commands behind one contract, by two runners: dbt's module in this process, or its command as another one."""
