-- The demo's shop, filled by the server itself. The same scale always gives the same rows.
CREATE SCHEMA shop;

CREATE TYPE shop.order_status AS ENUM ('placed', 'paid', 'shipped', 'delivered', 'returned', 'cancelled');
CREATE TYPE shop.payment_method AS ENUM ('card', 'bank_transfer', 'wallet', 'voucher');

-- A number from 0 to n-1 that looks random and depends on the row and the salt alone.
CREATE FUNCTION shop.pick(row_number bigint, salt bigint, n bigint) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((hashint8extended(row_number, salt) & 9223372036854775807) % n)::integer;

CREATE TABLE shop.customers (
    customer_id bigint PRIMARY KEY,
    customer_uuid uuid NOT NULL UNIQUE,
    full_name text NOT NULL,
    email text,
    country char(2) NOT NULL,
    tags text[] NOT NULL,
    preferences jsonb NOT NULL,
    birth_date date,
    credit_limit numeric(12, 2),
    newsletter boolean NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

INSERT INTO shop.customers
SELECT
    i,
    md5('customer ' || i)::uuid,
    (ARRAY['Ada', 'Björn', 'Chloé', 'Ελένη', 'Françoise', 'Graça', 'Haruki', 'İpek', 'José', '지우', 'Łukasz', 'राहुल', '美咲', 'Zoë', 'O''Neil', 'Søren'])
        [1 + shop.pick(i, 1, 16)]
        || ' ' ||
    (ARRAY['Lovelace', 'Åkesson', 'Dvořák', 'Παπαδοπούλου', 'Müller', 'Gonçalves', '村上', 'Yılmaz', 'Núñez', '김', 'Wójcik', 'शर्मा', '佐藤', 'de Vries', 'Smith', 'Ødegård'])
        [1 + shop.pick(i, 2, 16)],
    CASE WHEN shop.pick(i, 3, 20) > 0 THEN 'Customer' || i || '@example.com' END,
    (ARRAY['AT', 'BR', 'CA', 'CZ', 'DE', 'ES', 'FR', 'GB', 'GR', 'IN', 'JP', 'KR', 'MX', 'NO', 'PL', 'US'])
        [1 + shop.pick(i, 4, 16)],
    CASE shop.pick(i, 5, 4)
        WHEN 0 THEN '{}'
        WHEN 1 THEN ARRAY['vip', 'früh dabei']
        WHEN 2 THEN ARRAY['b2b', NULL, 'says "hi"']
        ELSE ARRAY['newsletter']
    END,
    jsonb_build_object(
        'language', (ARRAY['de', 'en', 'fr', 'ja', 'hi'])[1 + shop.pick(i, 6, 5)],
        'channels', jsonb_build_array('mail', shop.pick(i, 7, 3)),
        'note', CASE WHEN shop.pick(i, 8, 10) = 0 THEN '✓ 100 % "très bien"' END
    ),
    CASE WHEN shop.pick(i, 9, 8) > 0 THEN date '1940-01-01' + shop.pick(i, 10, 24000) END,
    CASE WHEN shop.pick(i, 11, 3) > 0 THEN shop.pick(i, 12, 500000)::numeric(12, 2) / 100 END,
    shop.pick(i, 13, 3) = 0,
    created_at,
    created_at + make_interval(hours => shop.pick(i, 15, 2000))
FROM generate_series(1::bigint, $customers) AS i
CROSS JOIN LATERAL (
    SELECT timestamptz '2025-01-01 00:00:00+00' + make_interval(secs => shop.pick(i, 14, 25000000)) AS created_at
) AS age;

CREATE TABLE shop.addresses (
    address_id bigint PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES shop.customers,
    kind text NOT NULL,
    street text NOT NULL,
    city text NOT NULL,
    postal_code text,
    country char(2) NOT NULL
);

INSERT INTO shop.addresses
SELECT
    row_number() OVER (ORDER BY customer_id, n),
    customer_id,
    CASE n WHEN 1 THEN 'home' ELSE 'delivery' END,
    (ARRAY['Straße des 17. Juni', 'Rua Augusta', 'Václavské nám.', 'Rue de l''Église', '中央通り', 'Main Street', 'Οδός Ερμού', 'Karl Johans gate'])
        [1 + shop.pick(customer_id, 20 + n, 8)] || ' ' || 1 + shop.pick(customer_id, 30 + n, 200),
    (ARRAY['Wien', 'São Paulo', 'Montréal', 'Praha', 'Köln', 'Málaga', 'Orléans', 'Leeds', 'Αθήνα', 'मुंबई', '東京', '서울', 'Ciudad de México', 'Tromsø', 'Łódź', 'Boston'])
        [1 + shop.pick(customer_id, 4, 16)],
    CASE WHEN shop.pick(customer_id, 40 + n, 15) > 0 THEN lpad(shop.pick(customer_id, 50 + n, 100000)::text, 5, '0') END,
    country
FROM shop.customers
CROSS JOIN LATERAL generate_series(1, 1 + (shop.pick(customer_id, 60, 10) < 3)::integer) AS n;

CREATE TABLE shop.products (
    product_id integer PRIMARY KEY,
    sku text NOT NULL UNIQUE,
    name text NOT NULL,
    category text NOT NULL,
    price numeric(10, 2) NOT NULL,
    weight_kg real,
    labels text[] NOT NULL,
    attributes jsonb,
    discontinued_at timestamptz
);

INSERT INTO shop.products
SELECT
    i,
    'SKU-' || lpad(i::text, 6, '0'),
    (ARRAY['Café crème', 'Thé vert 緑茶', 'Smørbrød-Brett', 'Müsli', 'Jalapeño', 'Crème brûlée', 'Pão de queijo', 'Żurek'])
        [1 + shop.pick(i, 70, 8)] || ' no. ' || i,
    (ARRAY['drinks', 'food', 'kitchen', 'garden', 'books'])[1 + shop.pick(i, 71, 5)],
    (199 + shop.pick(i, 72, 15000))::numeric(10, 2) / 100,
    CASE WHEN shop.pick(i, 73, 9) > 0 THEN (shop.pick(i, 74, 400) / 8.0)::real END,
    CASE shop.pick(i, 75, 3) WHEN 0 THEN '{}' WHEN 1 THEN ARRAY['new'] ELSE ARRAY['organic', 'fair trade'] END,
    CASE WHEN shop.pick(i, 76, 4) > 0 THEN jsonb_build_object('colour', (ARRAY['röd', '青', 'blue'])[1 + shop.pick(i, 77, 3)]) END,
    CASE WHEN shop.pick(i, 78, 12) = 0 THEN timestamptz '2026-06-01 00:00:00+00' END
FROM generate_series(1, $products) AS i;

CREATE TABLE shop.order_items (
    order_id bigint NOT NULL,
    line_number smallint NOT NULL,
    product_id integer NOT NULL REFERENCES shop.products,
    quantity integer NOT NULL CHECK (quantity > 0),
    unit_price numeric(10, 2) NOT NULL,
    discount numeric(5, 4) NOT NULL,
    PRIMARY KEY (order_id, line_number)
);

INSERT INTO shop.order_items
SELECT
    i,
    line,
    product_id,
    1 + shop.pick(i, 90 + line, 5),
    price,
    CASE WHEN shop.pick(i, 100 + line, 6) = 0 THEN 0.1500 ELSE 0 END
FROM generate_series(1::bigint, $orders) AS i
CROSS JOIN LATERAL generate_series(1, 1 + shop.pick(i, 80, 4)) AS line
JOIN shop.products ON product_id = 1 + shop.pick(i, 110 + line, $products);

CREATE TABLE shop.orders (
    order_id bigint PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES shop.customers,
    address_id bigint REFERENCES shop.addresses,
    status shop.order_status NOT NULL,
    total_amount numeric(12, 2) NOT NULL,
    note text,
    ordered_at timestamptz NOT NULL,
    shipped_at timestamptz,
    updated_at timestamptz NOT NULL
);

-- A few customers order much: the square of an even draw.
INSERT INTO shop.orders
SELECT
    i,
    customer_id,
    CASE WHEN shop.pick(i, 122, 10) > 0 THEN address_id END,
    status,
    total_amount,
    CASE WHEN shop.pick(i, 124, 25) = 0 THEN E'Bitte klingeln 🔔\nand leave it "by the door"' END,
    ordered_at,
    CASE WHEN status IN ('shipped', 'delivered', 'returned') THEN ordered_at + make_interval(hours => 12 + shop.pick(i, 125, 96)) END,
    ordered_at + make_interval(hours => 1 + shop.pick(i, 126, 200), secs => shop.pick(i, 127, 3600))
FROM generate_series(1::bigint, $orders) AS i
CROSS JOIN LATERAL (
    SELECT
        1 + floor($customers * power(shop.pick(i, 120, 1000000) / 1000000.0, 2))::bigint AS customer_id,
        (ARRAY['placed', 'paid', 'shipped', 'delivered', 'delivered', 'delivered', 'delivered', 'delivered', 'returned', 'cancelled'])
            [1 + shop.pick(i, 121, 10)]::shop.order_status AS status,
        timestamptz '2025-11-01 00:00:00+00' + make_interval(secs => shop.pick(i, 123, 28000000)) AS ordered_at
) AS drawn
JOIN (
    SELECT order_id, sum(round(quantity * unit_price * (1 - discount), 2)) AS total_amount
    FROM shop.order_items
    GROUP BY order_id
) AS totals ON totals.order_id = i
JOIN (SELECT customer_id, address_id FROM shop.addresses WHERE kind = 'home') AS homes USING (customer_id);

ALTER TABLE shop.order_items ADD FOREIGN KEY (order_id) REFERENCES shop.orders;

CREATE TABLE shop.payments (
    payment_id uuid PRIMARY KEY,
    order_id bigint NOT NULL REFERENCES shop.orders,
    method shop.payment_method NOT NULL,
    amount numeric(12, 2) NOT NULL,
    refunded boolean NOT NULL,
    paid_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

-- One payment, or two halves; none for orders that were only placed or were cancelled.
INSERT INTO shop.payments
SELECT
    md5('payment ' || order_id || ' ' || part)::uuid,
    order_id,
    (ARRAY['card', 'card', 'bank_transfer', 'wallet', 'voucher'])[1 + shop.pick(order_id, 130 + part, 5)]::shop.payment_method,
    CASE WHEN parts = 1 THEN total_amount WHEN part = 1 THEN round(total_amount / 2, 2) ELSE total_amount - round(total_amount / 2, 2) END,
    status = 'returned',
    ordered_at + make_interval(mins => 5 * part),
    updated_at
FROM shop.orders
CROSS JOIN LATERAL (SELECT 1 + (shop.pick(order_id, 140, 8) = 0)::integer AS parts) AS split
CROSS JOIN LATERAL generate_series(1, parts) AS part
WHERE status NOT IN ('placed', 'cancelled');

DROP FUNCTION shop.pick;
CREATE INDEX ON shop.customers (updated_at);
CREATE INDEX ON shop.orders (updated_at);
CREATE INDEX ON shop.payments (updated_at);
CREATE INDEX ON shop.payments (order_id);
ANALYZE;
