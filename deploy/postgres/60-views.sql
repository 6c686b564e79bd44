-- What dashboards ask. Each reads few windows by the primary keys, however long the tables are.

-- Where computing stands: "now" of the city, which is the present less some 90 s while all is well.
create or replace view city.v_progress as
select kind, p.closed_until, c.computed_until, extract(epoch from now() - c.computed_until) as behind_s
from city.window_progress p left join city.computed c using (kind);

-- What a person should look at, as something is not computed; no row while all is well.
create or replace view city.v_trouble as
select 'stands still' as trouble, c.kind as subject, c.computed_until as since,
  format('computed up to %s, stored up to %s; the city is computed up to %s', c.computed_until,
    coalesce((select min(received_at) from city.stored s where s.kind = c.kind)::text, 'nowhere'), city.computed_until()) as reason
from city.computed c where c.computed_until < city.computed_until()
union all
select 'fails', part, since, reason from city.failure
union all
select 'missing field', kind || '.' || field, null, 'the schema of this city does not have it as it is computed with' from city.missing_field;

-- Thresholds that are not as this version has them: the city changed them, or an earlier version had others.
create or replace view city.v_threshold as
select name, value, default_value, unit, meaning from city.threshold where value is distinct from default_value;

-- Districts by quarters of an hour, one column for each of the measures that people look at.
create or replace view city.v_district_15m as
select window_start, id as district,
  max(value) filter (where kind = 'traffic' and measure = 'speed_kmh') as speed_kmh,
  max(value) filter (where kind = 'traffic' and measure = 'flow_veh_h') as flow_veh_h,
  max(value) filter (where kind = 'traffic' and measure = 'vehicle_count') as vehicle_count,
  max(value) filter (where kind = 'weather' and measure = 'temperature_c') as temperature_c,
  max(value) filter (where kind = 'weather' and measure = 'rain_mm') as rain_mm,
  max(value) filter (where kind = 'weather' and measure = 'wind_speed_m_s') as wind_speed_m_s,
  max(value) filter (where kind = 'weather' and measure = 'wind_direction_deg') as wind_direction_deg,
  max(value) filter (where kind = 'energy' and measure = 'power_w') as power_w,
  max(value) filter (where kind = 'energy' and measure = 'energy_import_kwh') as energy_import_kwh
from city.aggregate_15m where scope = 'district' group by window_start, id;

-- The latest of them, and what is wrong there. Its window is asked for by itself, so that the partitions of other days are left out.
create or replace view city.v_city as
select d.*, (select count(*) from city.alert a where a.district = d.district and a.cleared_at is null and not a.withdrawn and a.caused_by is null) as alerts_open
from city.v_district_15m d
where d.window_start = (select max(window_start) from city.aggregate_15m
  where scope = 'district' and window_start >= (select city.computed_until()) - interval '1 hour');

create or replace view city.v_alerts_open as
select alert, subject, district, severity, raised_at, reason from city.alert
where cleared_at is null and not withdrawn and caused_by is null;

-- Devices: when each was last seen, and how much of what it should have sent in the last four complete quarters of an hour came.
create or replace view city.v_device as
with progress as (select kind, computed_until, city.floor_quarter(computed_until) as until from city.computed),
counted as (
  select a.kind, a.id as device, sum(readings) as readings
  from progress p join city.aggregate_15m a on a.kind = p.kind and a.scope = 'device' and a.window_start >= p.until - interval '1 hour' and a.window_start < p.until
  where (a.kind, a.measure) in (('traffic', 'occupancy_percent'), ('weather', 'pressure_hpa'), ('energy', 'power_w'))
  group by a.kind, a.id
)
select d.device, d.kind, d.district, d.cabinet, l.observed_at as last_seen, extract(epoch from p.computed_until - l.observed_at) as unseen_s,
  least(1, coalesce(c.readings, 0) * d.interval_s / 3600) as completeness,
  exists (select from city.anomaly a where a.device = d.device and a.anomaly = 'silent' and a.observed_to is null and not a.withdrawn) as silent
from city.device d left join progress p on p.kind = d.kind
left join city.device_last l on l.kind = d.kind and l.device = d.device
left join counted c on c.kind = d.kind and c.device = d.device;

create or replace view city.v_anomalies as
select observed_from, observed_to, anomaly, device, kind, field, value, expected, score, points, reason from city.anomaly where not withdrawn;
