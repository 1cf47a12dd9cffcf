-- What happens in the shop between two builds. Every change moves `updated_at`, as an application would.
UPDATE shop.customers
SET country = CASE country WHEN 'PL' THEN 'NO' ELSE 'PL' END, updated_at = timestamptz '2026-09-30 09:00:00+00'
WHERE customer_id % 50 = 0;

UPDATE shop.orders
SET status = 'delivered', updated_at = timestamptz '2026-09-30 10:00:00+00'
WHERE status = 'shipped' AND order_id % 4 = 0;

INSERT INTO shop.orders
SELECT
    order_id + $orders, customer_id, address_id, 'paid', total_amount, note,
    timestamptz '2026-09-21 02:00:00+00', NULL, timestamptz '2026-09-30 11:30:00+00'
FROM shop.orders
WHERE order_id % 100 = 0 AND order_id <= $orders;

INSERT INTO shop.order_items
SELECT order_id + $orders, line_number, product_id, quantity, unit_price, discount
FROM shop.order_items
WHERE order_id % 100 = 0 AND order_id <= $orders;

INSERT INTO shop.payments
SELECT
    md5('payment ' || order_id || ' 1')::uuid, order_id, 'card', total_amount, false,
    timestamptz '2026-09-21 02:05:00+00', timestamptz '2026-09-30 11:05:00+00'
FROM shop.orders
WHERE order_id > $orders;
