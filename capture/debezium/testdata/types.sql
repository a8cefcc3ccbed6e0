-- One table with a column of every kind, and what happens to it. What stands before "-- stream" is
-- there when the snapshot is taken.
CREATE EXTENSION IF NOT EXISTS hstore;
CREATE EXTENSION IF NOT EXISTS citext;
CREATE EXTENSION IF NOT EXISTS ltree;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'very happy');
CREATE DOMAIN percent AS numeric(5,2) CHECK (value >= 0);
CREATE TABLE kinds (
  id bigint PRIMARY KEY,
  b boolean, b_nn boolean NOT NULL,
  i2 smallint, i2_nn smallint NOT NULL, i4 integer, i4_nn integer NOT NULL, i8 bigint, o oid,
  f4 real, f8 double precision, f8_nn double precision NOT NULL,
  n numeric, n_nn numeric NOT NULL, n52 numeric(5,2), n52_nn numeric(5,2) NOT NULL, n30 numeric(30,0), n4010 numeric(40,10), pct percent, cash money,
  c char(5), v varchar(20), t text, t_nn text NOT NULL, ci citext, nm name,
  ba bytea, ba_nn bytea NOT NULL,
  d date, d_nn date NOT NULL,
  ts timestamp, ts_nn timestamp NOT NULL, ts3 timestamp(3), ts0 timestamp(0), tz timestamptz, tz_nn timestamptz NOT NULL, tz3 timestamptz(3),
  ti time, ti_nn time NOT NULL, ti3 time(3), ti0 time(0), titz timetz, iv interval, iv_nn interval NOT NULL,
  u uuid, u_nn uuid NOT NULL, j json, jb jsonb, jb_nn jsonb NOT NULL, x xml, m mood, m_nn mood NOT NULL,
  b1 bit(1), b8 bit(8), b20 bit(20), vb bit varying(10), vbu bit varying,
  ip inet, net cidr, mac macaddr, mac8 macaddr8,
  r4 int4range, rn numrange, rd daterange, rts tsrange, rtz tstzrange, r8 int8range,
  tsv tsvector, tsq tsquery, h hstore, lt ltree, p point, poly polygon,
  ai2 smallint[], ai integer[], ai8 bigint[], at text[], av varchar(9)[], ab boolean[], af4 real[], af8 double precision[], an numeric(6,2)[], anv numeric[], ad date[], ats timestamp[], atz timestamptz[], au uuid[], ac char(3)[], aj jsonb[], am mood[], aip inet[], ati time[], abt bytea[], ah hstore[]
);
INSERT INTO kinds VALUES (1,
  true, false, -32768, 32767, -2147483648, 2147483647, 9223372036854775807, 4294967295,
  1.5, 0.1, -1e300, 123.4500, 0, 1.20, -999.99, 123456789012345678901234567890, -123456789012345678901234567890.0123456789, 12.5, '$1,234.56',
  'ab', 'vär', 'text', 'nn', 'CiText', 'aname',
  '\x00ff10', '\x', '2024-02-29', '1969-12-31',
  '2024-02-29 12:34:56.789012', '1969-12-31 23:59:59.999999', '2024-02-29 12:34:56.789', '2024-02-29 12:34:56', '2024-02-29 12:34:56.789012+02', '1969-12-31 23:59:59.9+00', '2024-02-29 12:34:56.789-05',
  '12:34:56.789012', '00:00:00', '12:34:56.789', '12:34:56', '12:34:56.789+02', '1 year 2 mons 3 days 04:05:06.789', '-1 days',
  'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '00000000-0000-0000-0000-000000000000', '{"a": 1}', '{"b": [1, 2.50, null]}', '"x"', '<a>b</a>', 'very happy', 'sad',
  B'1', B'10000001', B'10000000000000000001', B'101', B'1111111100000000101',
  '192.168.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05',
  '[1,10)', '(1.5,]', '[2024-01-01,2024-02-01)', '["2024-01-01 00:00:00","2024-01-02 00:00:00")', '["2024-01-01 00:00:00+00","2024-01-02 00:00:00+00")', '[1,10)',
  'fat:2 cat:3A', 'fat & cat', 'a=>1, b=>NULL', 'Top.Science', '(1.5,-2)', '((0,0),(1,1))',
  '{1,2}', '{1,NULL,3}', '{9223372036854775807}', '{a,"b c",NULL,"q\"uote"}', '{x}', '{t,f}', '{1.5}', '{0.1}', '{1.20,3.40}', '{1.234,5}', '{2024-02-29}', '{"2024-02-29 12:34:56.789012"}', '{"2024-02-29 12:34:56+00"}', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', '{ab}', ARRAY['{"a": 1}'::jsonb], '{ok}', '{10.0.0.1}', '{12:34:56}', ARRAY['\x01'::bytea], ARRAY['a=>1'::hstore]);
INSERT INTO kinds (id, b_nn, i2_nn, i4_nn, f8_nn, n_nn, n52_nn, t_nn, ba_nn, d_nn, ts_nn, tz_nn, ti_nn, iv_nn, u_nn, jb_nn, m_nn)
  VALUES (2, true, 1, 1, 1, 1, 1, '', '\x01', '2000-01-01', '2000-01-01', '2000-01-01 00:00:00+00', '01:00', '1 day', '11111111-1111-1111-1111-111111111111', '{}', 'ok');
CREATE TABLE extremes (id int PRIMARY KEY, f4 real, f8 double precision, n numeric, n62 numeric(6,2), n307 numeric(307,5), d date, ts timestamp, ts3 timestamp(3), tz timestamptz, ti time, titz timetz, iv interval, t text);
INSERT INTO extremes VALUES
  (1, 'NaN', 'NaN', 'NaN', 'NaN', 1.00001, 'infinity', 'infinity', 'infinity', 'infinity', '24:00:00', '23:59:59.999999-12', '178000000 years', ''),
  (2, 'Infinity', '-Infinity', 'Infinity', 0, 1, '-infinity', '-infinity', '-infinity', '-infinity', '23:59:59.999999', '00:00:00+15:59', '-178000000 years', 'a' || chr(1) || chr(9) || chr(10) || '"\/<>&' || chr(8232) || chr(127) || '😀'),
  (3, 3.4028235e38, 1.7976931348623157e308, 12345678901234567890123456789012345678901234567890.1, -0.01, -1, '5874897-12-31', '294246-12-31 23:59:59.999999', '294246-12-31 23:59:59.999', '294246-12-31 23:59:59.999999+00', '00:00:00.000001', '12:00:00+05:30', '0.000001 s', 'é'),
  (4, 1e-45, 5e-324, 0.00000000000000000001, 9999.99, 0, '4713-01-01 BC', '4713-01-01 00:00:00 BC', '0044-03-15 12:00:00 BC', '4713-01-01 00:00:00+00 BC', '00:00:00', '00:00:00+00', '-1 mons +1 day -00:00:01', 'x'),
  (5, 1e10, 1e21, 100, 1, 100000, '0001-01-01', '0001-01-01 00:00:00', '1500-02-28 01:02:03.004', '0001-01-01 00:00:00+00', '12:00:00.1', '12:00:00.12+00', '1 day 25:00:00', 'y'),
  (6, -0.0, -0.0, -0.0, 0, 0, '12000-01-01', '12000-01-01 00:00:00.1', '12000-01-01', '12000-01-01 00:00:00+00', '12:00', '12:00+00:30', '0', 'z'),
  (7, 123456.79, 1e7, 1e10, 0.1, 12, '1582-10-04', '1582-10-04 00:00:00', '1582-10-15', '1582-10-04 00:00:00.5+00', '12:00', '12:00:00.100-03:30', '1 mon', 'z'),
  (8, 0.001, 1e-4, 0.10, 10, 12, '1582-10-15', '1900-01-01 00:00:00', '1900-01-01', '1900-01-01 00:00:00.123456+00', '12:00', '12:00-00', '1 week', 'z');
INSERT INTO extremes VALUES
  (9, 0, 0, 'NaN', 'NaN', 0, '10000-01-01', '0105-02-29 00:00:00 BC', '0001-12-31 23:59:59 BC', '0001-12-31 23:59:59 BC', '24:00:00', '24:00:00+00', '-1 year 1 mon', ''),
  (10, 1, 1, 1e40, 1, 1, '9999-12-31', '1883-11-18 12:00:00', '1883-11-18 12:00:00', '9999-12-31 23:59:59.999999+00', '01:02:03', '24:00:00-15:59', '12 mons', '');
-- Every kind where it must not be missing, under an identity that leaves it out of the old row.
CREATE TABLE needed (id int PRIMARY KEY, b boolean NOT NULL, i2 smallint NOT NULL, o oid NOT NULL, f4 real NOT NULL, n40 numeric(40,3) NOT NULL, cash money NOT NULL,
  c char(3) NOT NULL, ci citext NOT NULL, ts3 timestamp(3) NOT NULL, tz0 timestamptz(0) NOT NULL, tz1 timestamptz(1) NOT NULL, tz2 timestamptz(2) NOT NULL, tz4 timestamptz(4) NOT NULL, ti3 time(3) NOT NULL, titz timetz NOT NULL, titz3 timetz(3) NOT NULL,
  j json NOT NULL, x xml NOT NULL, b1 bit(1) NOT NULL, b8 bit(8) NOT NULL, b20 bit(20) NOT NULL, vb bit varying(10) NOT NULL, vb1 bit varying(1) NOT NULL, ip inet NOT NULL, mac macaddr NOT NULL, r4 int4range NOT NULL, tsv tsvector NOT NULL, h hstore NOT NULL, lt ltree NOT NULL, p point NOT NULL,
  ai integer[] NOT NULL, at text[] NOT NULL, am mood[] NOT NULL, anv numeric[] NOT NULL, ati3 time(3)[] NOT NULL, ats3 timestamp(3)[] NOT NULL, atz3 timestamptz(3)[] NOT NULL, at0 text[] NOT NULL, ai22 integer[][] NOT NULL, pct percent NOT NULL, tsq tsquery NOT NULL, n numeric NOT NULL, n0 numeric(4) NOT NULL, ivs interval second(0) NOT NULL, ivy interval year NOT NULL);
CREATE TABLE numbers (id int PRIMARY KEY, n numeric, n62 numeric(6,2) NOT NULL, cash money, an numeric[], u uuid[], j jsonb[] NOT NULL, tsv tsvector, c char(1), nn numeric NOT NULL, cc money NOT NULL);
INSERT INTO numbers VALUES
  (1, 123.4500, 1.20, '$1,234.56', '{1.20,NULL}', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}', '{}', 'a', 'é', 1, '0'),
  (2, 'NaN', 0, '-$92,233,720,368,547,758.08', '{}', NULL, ARRAY['[1, 2]'::jsonb, NULL], NULL, ' ', -1e20, '$92,233,720,368,547,758.07'),
  (3, '-Infinity', -0.01, NULL, NULL, '{}', ARRAY['"\\\""'::jsonb], '', '', 12.30, '-$0.01'),
  (4, 1e30, 9999.99, '0', '{1e20,-1e-20}', NULL, ARRAY['null'::jsonb], $$'a\\b':1A$$, NULL, 1e-30, '1');
CREATE TABLE plain (id int, part text, big text, n int NOT NULL, PRIMARY KEY (part, id));
ALTER TABLE plain ALTER COLUMN big SET STORAGE EXTERNAL;
CREATE TABLE wholly (id int PRIMARY KEY, big text, n int NOT NULL, note varchar(10));
ALTER TABLE wholly REPLICA IDENTITY FULL;
ALTER TABLE wholly ALTER COLUMN big SET STORAGE EXTERNAL;
CREATE TABLE indexed (id int PRIMARY KEY, code text NOT NULL, n int, big text, j jsonb, ba bytea, ua uuid);
CREATE UNIQUE INDEX indexed_code ON indexed (code);
ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_code;
ALTER TABLE indexed ALTER COLUMN big SET STORAGE EXTERNAL;
CREATE TABLE keyless (a int, b text);
ALTER TABLE keyless REPLICA IDENTITY FULL;
CREATE TABLE "Odd-Names" ("the Key" int PRIMARY KEY, "select" text, "1st" int, "ü" int);
CREATE TABLE toasts (id int PRIMARY KEY, t text, j jsonb, ba bytea, at text[], h hstore, n numeric, ai integer[], v varchar(5000), x xml);
ALTER TABLE toasts ALTER COLUMN t SET STORAGE EXTERNAL, ALTER COLUMN j SET STORAGE EXTERNAL, ALTER COLUMN ba SET STORAGE EXTERNAL, ALTER COLUMN at SET STORAGE EXTERNAL,
  ALTER COLUMN h SET STORAGE EXTERNAL, ALTER COLUMN n SET STORAGE EXTERNAL, ALTER COLUMN ai SET STORAGE EXTERNAL, ALTER COLUMN v SET STORAGE EXTERNAL, ALTER COLUMN x SET STORAGE EXTERNAL;
-- stream
INSERT INTO needed VALUES (1, false, 0, 0, 0, 0, '-$0.05', '', '', '2024-01-01', '2024-01-01 00:00:00+00', '2024-01-01 00:00:00.15+00', '2024-01-01 00:00:00.1+00', '2024-01-01 00:00:00.1234+00', '00:00:00.5', '00:00:00+01', '01:00:00.5+01', 'null', '', B'0', B'00000000', B'00000000000100000001', B'', B'1', '::1', '00:00:00:00:00:00', 'empty', '', '', '', '(0,0)',
  '{}', '{"",NULL,"NULL"}', '{}', '{NULL}', '{00:00:00.5}', '{"2024-01-01"}', '{"2024-01-01 00:00:00+00"}', '{}', '{{1,2},{3,4}}', 0, '', 1000, 12, '1:02:03', '5 years');
DELETE FROM needed;
INSERT INTO numbers SELECT id + 10, n, n62, cash, an, u, j, tsv, c, nn, cc FROM numbers ORDER BY id;
DELETE FROM numbers WHERE id = 11;
INSERT INTO kinds SELECT (jsonb_populate_record(k, '{"id": 3}')).* FROM kinds k WHERE id = 1;
INSERT INTO kinds SELECT (jsonb_populate_record(k, '{"id": 4}')).* FROM kinds k WHERE id = 2;
UPDATE kinds SET i4 = 7 WHERE id = 3;
UPDATE kinds SET id = 5 WHERE id = 4;
DELETE FROM kinds WHERE id = 5;
INSERT INTO extremes SELECT id + 10, f4, f8, n, n62, n307, d, ts, ts3, tz, ti, titz, iv, t FROM extremes ORDER BY id;
INSERT INTO plain VALUES (1, 'a', repeat('x', 3000), 1);
UPDATE plain SET n = 2 WHERE id = 1;
UPDATE plain SET id = 2 WHERE id = 1;
UPDATE plain SET id = 3, big = 'short' WHERE id = 2;
DELETE FROM plain WHERE id = 3;
INSERT INTO wholly VALUES (1, repeat('y', 3000), 1, 'note');
UPDATE wholly SET n = 2 WHERE id = 1;
UPDATE wholly SET id = 2 WHERE id = 1;
DELETE FROM wholly WHERE id = 2;
INSERT INTO indexed VALUES (1, 'one', 1, repeat('z', 3000));
UPDATE indexed SET n = 2 WHERE id = 1;
UPDATE indexed SET code = 'two' WHERE id = 1;
UPDATE indexed SET id = 2 WHERE id = 1;
DELETE FROM indexed WHERE id = 2;
INSERT INTO keyless VALUES (1, 'x');
UPDATE keyless SET b = 'y';
DELETE FROM keyless;
INSERT INTO "Odd-Names" VALUES (1, 'a', 2, 3);
DELETE FROM "Odd-Names";
INSERT INTO toasts VALUES (1, repeat('t', 3000), ('"' || repeat('j', 3000) || '"')::jsonb, decode(repeat('00', 3000), 'hex'), ARRAY[repeat('a', 3000)], hstore('k', repeat('h', 3000)), repeat('9', 9000)::numeric, array_fill(1, ARRAY[1000]), repeat('v', 3000), xmlparse(content repeat('x', 3000)));
UPDATE toasts SET id = 2;
INSERT INTO plain VALUES (9, 'z', NULL, 9);
TRUNCATE plain, wholly;
SELECT pg_logical_emit_message(true, 'prefix', 'inside');
SELECT pg_logical_emit_message(false, 'prefix', '\x00ff'::bytea);
