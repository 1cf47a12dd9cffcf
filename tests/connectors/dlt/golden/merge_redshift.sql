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

UPDATE "landing"."_dbt_bridge_stage_1" SET "big" = CASE
  WHEN "_dbt_bridge_stage_1"."_dbt_bridge_kept_0"
  THEN t."big"
  ELSE "_dbt_bridge_stage_1"."big"
END, "mine" = t."mine"
FROM "landing"."orders" AS t
WHERE
  "_dbt_bridge_stage_1"."_dbt_bridge_do" = 4
  AND t."id" = "_dbt_bridge_stage_1"."_dbt_bridge_found_0"
  AND t."part" = "_dbt_bridge_stage_1"."_dbt_bridge_found_1";

UPDATE "landing"."_dbt_bridge_stage_1" SET "_dbt_bridge_kept_0" = FALSE
WHERE
  "_dbt_bridge_do" = 4;

DELETE FROM "landing"."orders" USING   "landing"."_dbt_bridge_stage_1" AS s
WHERE
  s."_dbt_bridge_do" = 0
  AND (
    "orders"."id" = s."id" AND "orders"."part" = s."part"
  );

UPDATE "landing"."orders" SET "odd ""name""" = s."odd ""name""", "big" = CASE WHEN s."_dbt_bridge_kept_0" THEN "orders"."big" ELSE s."big" END, "_deleted_at" = s."_deleted_at", "mine" = CASE
  WHEN s."_dbt_bridge_do" = 2
  THEN NULL
  WHEN s."_dbt_bridge_do" = 4
  THEN s."mine"
  ELSE "orders"."mine"
END
FROM "landing"."_dbt_bridge_stage_1" AS s
WHERE
  s."_dbt_bridge_do" <> 0
  AND (
    "orders"."id" = s."id" AND "orders"."part" = s."part"
  );

INSERT INTO "landing"."orders" (
  "id",
  "part",
  "odd ""name""",
  "big",
  "_deleted_at",
  "mine"
)
SELECT
  s."id",
  s."part",
  s."odd ""name""",
  s."big",
  s."_deleted_at",
  s."mine"
FROM "landing"."_dbt_bridge_stage_1" AS s
WHERE
  s."_dbt_bridge_do" <> 0
  AND NOT EXISTS(
    SELECT
      1
    FROM "landing"."orders" AS t
    WHERE
      t."id" = s."id" AND t."part" = s."part"
  );
