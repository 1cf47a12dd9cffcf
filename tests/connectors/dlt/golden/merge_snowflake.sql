SELECT
  COUNT(*) AS missing
FROM "landing"."_dbt_bridge_stage_1" AS s
LEFT JOIN "landing"."orders" AS t
  ON t."ID" = s."ID" AND t."PART" = s."PART"
WHERE
  s."_DBT_BRIDGE_DO" = 3 AND t."ID" IS NULL;

SELECT
  COUNT(*) AS missing
FROM "landing"."_dbt_bridge_stage_1" AS s
LEFT JOIN "landing"."orders" AS t
  ON t."ID" = s."_DBT_BRIDGE_FOUND_0" AND t."PART" = s."_DBT_BRIDGE_FOUND_1"
WHERE
  s."_DBT_BRIDGE_DO" = 4 AND t."ID" IS NULL;

MERGE INTO "landing"."_dbt_bridge_stage_1" AS s
USING "landing"."orders" AS t
ON s."_DBT_BRIDGE_DO" = 4
AND t."ID" = s."_DBT_BRIDGE_FOUND_0"
AND t."PART" = s."_DBT_BRIDGE_FOUND_1"
WHEN MATCHED THEN UPDATE SET
  "BIG" = CASE WHEN s."_DBT_BRIDGE_KEPT_0" THEN t."BIG" ELSE s."BIG" END,
  "MINE" = t."MINE";

UPDATE "landing"."_dbt_bridge_stage_1" SET "_DBT_BRIDGE_KEPT_0" = FALSE
WHERE
  "_DBT_BRIDGE_DO" = 4;

MERGE INTO "landing"."orders" AS t
USING "landing"."_dbt_bridge_stage_1" AS s
ON t."ID" = s."ID" AND t."PART" = s."PART"
WHEN MATCHED AND s."_DBT_BRIDGE_DO" = 0 THEN DELETE
WHEN MATCHED THEN UPDATE SET
  "ODD ""NAME""" = s."ODD ""NAME""",
  "BIG" = CASE WHEN s."_DBT_BRIDGE_KEPT_0" THEN t."BIG" ELSE s."BIG" END,
  "_DELETED_AT" = s."_DELETED_AT",
  "MINE" = CASE
    WHEN s."_DBT_BRIDGE_DO" = 2
    THEN NULL
    WHEN s."_DBT_BRIDGE_DO" = 4
    THEN s."MINE"
    ELSE t."MINE"
  END
WHEN NOT MATCHED AND s."_DBT_BRIDGE_DO" <> 0 THEN INSERT ("ID", "PART", "ODD ""NAME""", "BIG", "_DELETED_AT", "MINE") VALUES (s."ID", s."PART", s."ODD ""NAME""", s."BIG", s."_DELETED_AT", s."MINE");
