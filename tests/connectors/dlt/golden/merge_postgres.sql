SELECT
  COUNT(*) AS missing
FROM "landing"."_dbt_bridge_stage_1" AS s
LEFT JOIN "landing"."orders" AS t
  ON t."id" = s."id" AND t."part" = s."part"
WHERE
  s."_dbt_bridge_do" = 3 AND t."id" IS NULL;

SELECT
  COUNT(*) AS missing
FROM "landing"."_dbt_bridge_stage_1" AS s
LEFT JOIN "landing"."orders" AS t
  ON t."id" = s."_dbt_bridge_found_0" AND t."part" = s."_dbt_bridge_found_1"
WHERE
  s."_dbt_bridge_do" = 4 AND t."id" IS NULL;

MERGE INTO "landing"."_dbt_bridge_stage_1" AS s
USING "landing"."orders" AS t
ON s."_dbt_bridge_do" = 4
AND t."id" = s."_dbt_bridge_found_0"
AND t."part" = s."_dbt_bridge_found_1"
WHEN MATCHED THEN UPDATE SET
  "big" = CASE WHEN s."_dbt_bridge_kept_0" THEN t."big" ELSE s."big" END,
  "mine" = t."mine";

UPDATE "landing"."_dbt_bridge_stage_1" SET "_dbt_bridge_kept_0" = FALSE
WHERE
  "_dbt_bridge_do" = 4;

MERGE INTO "landing"."orders" AS t
USING "landing"."_dbt_bridge_stage_1" AS s
ON t."id" = s."id" AND t."part" = s."part"
WHEN MATCHED AND s."_dbt_bridge_do" = 0 THEN DELETE
WHEN MATCHED THEN UPDATE SET
  "odd ""name""" = s."odd ""name""",
  "big" = CASE WHEN s."_dbt_bridge_kept_0" THEN t."big" ELSE s."big" END,
  "_deleted_at" = s."_deleted_at",
  "mine" = CASE
    WHEN s."_dbt_bridge_do" = 2
    THEN NULL
    WHEN s."_dbt_bridge_do" = 4
    THEN s."mine"
    ELSE t."mine"
  END
WHEN NOT MATCHED AND s."_dbt_bridge_do" <> 0 THEN INSERT ("id", "part", "odd ""name""", "big", "_deleted_at", "mine") VALUES (s."id", s."part", s."odd ""name""", s."big", s."_deleted_at", s."mine");
