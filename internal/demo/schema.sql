-- The demo's source database. demo.Install runs this once, as one transaction.

create table public.airlines (
    carrier text primary key,
    name    text not null
);
create table public.airports (
    faa  text primary key,
    name text not null,
    lat  double precision,
    lon  double precision,
    alt  int,
    tz   int
);
create table public.planes (
    tailnum      text primary key,
    year         int,
    type         text,
    manufacturer text,
    model        text,
    engines      int,
    seats        int,
    engine       text
);
-- fare is synthetic: the other columns are the record of what happened.
create table public.flights (
    id        bigint primary key,
    carrier   text not null,
    flight    int not null,
    tailnum   text,
    origin    text not null,
    dest      text not null,
    sched_dep timestamptz not null,
    dep_time  timestamptz,
    dep_delay double precision,
    sched_arr timestamptz,
    arr_time  timestamptz,
    arr_delay double precision,
    air_time  double precision,
    distance  int,
    fare      numeric(10,2)
);
-- A moved flight must be taken back from the plane that loses it: the log has to carry the old row.
alter table public.flights  replica identity full;
alter table public.planes   replica identity full;
alter table public.airports replica identity full;
alter table public.airlines replica identity full;

-- Simulated time: every transaction moves it first. It never goes back.
create table public.simulation_clock (
    id  int primary key default 1 check (id = 1),
    now timestamptz not null
);
insert into public.simulation_clock (now) values ('2012-12-31 00:00:00+00');

-- Every committed row change, by triggers, for whoever wants to check joins against history without
-- reading the log: the dimension row that was current when a fact row last changed is the one with
-- the greatest n below the fact's. The replayer is the only writer, so order of n is commit order;
-- rolled back transactions and savepoints leave a hole in n and no row. Within one xid, order of n
-- is the order of the statements.
create schema audit;
create table audit.log (
    n          bigserial primary key,
    xid        bigint not null,
    table_name text not null,
    op         text not null,
    at         timestamptz not null,
    before     jsonb,
    after      jsonb
);
create function audit.record() returns trigger language plpgsql set timezone = 'UTC' as $$
begin
    insert into audit.log (xid, table_name, op, at, before, after)
    values (pg_current_xact_id()::text::bigint, tg_table_name, lower(tg_op), (select now from public.simulation_clock),
            case when tg_op <> 'INSERT' then to_jsonb(old) end,
            case when tg_op <> 'DELETE' then to_jsonb(new) end);
    return null;
end $$;
create trigger audit after insert or update or delete on public.flights  for each row execute function audit.record();
create trigger audit after insert or update or delete on public.planes   for each row execute function audit.record();
create trigger audit after insert or update or delete on public.airports for each row execute function audit.record();
create trigger audit after insert or update or delete on public.airlines for each row execute function audit.record();

-- How far the replayer is: next is the first transaction of the plan that is not committed yet,
-- changed in that transaction. While an initial load runs, loading is its goal and stage what it
-- has done. plan says which data the numbers belong to.
create schema demo;
create table demo.progress (
    id      int primary key default 1 check (id = 1),
    next    bigint not null default 0,
    loading bigint,
    stage   int not null default 0,
    plan    text
);
insert into demo.progress default values;
create function demo.advance(expected bigint, following bigint) returns void language plpgsql as $$
begin
    update demo.progress set next = following where id = 1 and next = expected and loading is null;
    if not found then
        raise exception 'demo.progress is not at %: another replayer works on this database', expected;
    end if;
end $$;
