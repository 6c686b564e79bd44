-- Readings as values: rows (device, observed_at, measure, value, weight), the order of readings, and what moved the registers.

create or replace function city.fill(of_kind text) returns void
language plpgsql as $$
begin
  case of_kind
    when 'traffic' then perform city.fill_traffic();
    when 'weather' then perform city.fill_weather();
    when 'energy' then perform city.fill_energy();
  end case;
  analyze work_value, work_order;
end $$;

-- What all kinds have: the order of the readings, and what of each is compared to find a device that is stuck.
create or replace function city.fill_traffic() returns void
language plpgsql as $$
begin
  -- A counter is stuck if all of this stays the same while vehicles pass; an empty road always looks the same.
  insert into work_order
  select device, observed_at, row_number() over w, lag(observed_at) over w, quality,
    case when coalesce(vehicles, 0) > 0 or coalesce(flow, 0) > 0 then hashtextextended(concat_ws('|', vehicles, flow, speed, occupancy), 0) end,
    kafka_partition, kafka_offset, is_target
  from work_traffic r
  window w as (partition by device order by observed_at);

  -- Speeds count as vehicles do: those counted, else those of the flow, else one. Nothing passes at no speed at all: a metre in an hour is none.
  insert into work_value
  select r.device, r.observed_at, v.measure, v.value, v.weight, r.is_target
  from work_traffic r
  cross join lateral (values
    ('vehicle_count', vehicles, 1::double precision),
    ('flow_veh_h', coalesce(flow, vehicles * 3600 / seconds), coalesce(seconds, 60)),
    ('speed_kmh', case when speed >= 0.001 then speed end, coalesce(vehicles, flow * coalesce(seconds, 60) / 3600, 1)),
    ('occupancy_percent', occupancy, coalesce(seconds, 60))) v(measure, value, weight)
  where v.value is not null and v.weight > 0;
end $$;

create or replace function city.fill_weather() returns void
language plpgsql as $$
begin
  insert into work_order
  select device, observed_at, row_number() over w, lag(observed_at) over w, quality,
    case when num_nonnulls(temperature_c, relative_humidity_percent, pressure_hpa, wind_speed_m_s, wind_direction_deg, irradiance_w_m2) >= 3
      then hashtextextended(concat_ws('|', temperature_c, relative_humidity_percent, pressure_hpa, wind_speed_m_s, wind_direction_deg, irradiance_w_m2), 0) end,
    kafka_partition, kafka_offset, is_target
  from work_weather r
  window w as (partition by device order by observed_at);

  -- Gauges that weigh read a little below nothing: their sum is right, so each is added as it is.
  insert into work_value
  select r.device, r.observed_at, v.measure, v.value, v.weight, r.is_target
  from work_weather r
  cross join lateral (values
    ('temperature_c', temperature_c, 1::double precision),
    ('relative_humidity_percent', relative_humidity_percent, 1),
    ('pressure_hpa', pressure_hpa, 1),
    ('wind_speed_m_s', wind_speed_m_s, 1),
    ('wind_gust_m_s', wind_gust_m_s, 1),
    ('wind_direction_deg', wind_direction_deg, coalesce(wind_speed_m_s, 1)),
    ('rain_mm', rain_mm, 1),
    ('irradiance_w_m2', irradiance_w_m2, 1)) v(measure, value, weight)
  where v.value is not null and v.weight > 0;
end $$;

create or replace function city.fill_energy() returns void
language plpgsql as $$
begin
  insert into work_order
  select device, observed_at, row_number() over w, lag(observed_at) over w, quality,
    case when power_w <> 0 then hashtextextended(concat_ws('|', power_w, energy_import_kwh, energy_export_kwh, frequency_hz, phases), 0) end,
    kafka_partition, kafka_offset, is_target
  from work_energy r
  window w as (partition by device order by observed_at);

  analyze work_order;

  insert into work_value
  select r.device, r.observed_at, v.measure, v.value, 1, r.is_target
  from work_energy r
  cross join lateral (values
    ('power_w', power_w),
    ('demand_w', case when power_w is not null then greatest(power_w, 0) end),
    ('supply_w', case when power_w is not null then greatest(-power_w, 0) end),
    ('frequency_hz', frequency_hz)) v(measure, value)
  where v.value is not null and (r.is_target or v.measure in ('power_w', 'frequency_hz'));

  with said as (
    insert into work_register
    select device, observed_at, field, register, previous,
      case verdict
        when 'counts' then register - previous
        when 'recovers' then register - before_previous
        when 'rollover' then capacity - previous + register
        when 'reset' then register
      end, step_max, verdict, has_both
    from city.register_steps()
    returning device, observed_at, field, step
  )
  insert into work_value select device, observed_at, field, step, 1, true from said where step is not null;
  analyze work_register;
end $$;

-- What each register reading of the targets says, against the one or two before it (`has_both`: they are the two readings before):
--   counts    it went on, by no more than the connection can carry
--   recovers  the reading before was wrong, this one goes on from the one before that
--   rollover  all its digits were used: 999999.8 is followed by 0.3. How many digits it has is seen from the number before
--   reset     it began again near nothing: another meter, or one that forgot
--   backwards, implausible   neither: no energy is counted
--   first     there is none to compare with
-- Dropped, as the columns of what it returns could not be replaced.
drop function if exists city.register_steps();
create function city.register_steps() returns table (device text, observed_at timestamptz, field text, register double precision,
  previous double precision, before_previous double precision, capacity double precision, step_max double precision, verdict text, has_both boolean)
language plpgsql as $$
declare
  gap interval := city.seconds_of('register.gap');
  least_kwh double precision := city.threshold_of('register.least');
  watts double precision := city.threshold_of('register.power_max');
  margin double precision := city.threshold_of('register.power_margin');
begin
  return query
  with registers as (
    select r.device, r.observed_at, v.field, v.register, o.number, r.is_target
    from work_energy r
    join work_order o on o.device = r.device and o.observed_at = r.observed_at
    cross join lateral (values ('energy_import_kwh', r.energy_import_kwh), ('energy_export_kwh', r.energy_export_kwh)) v(field, register)
    where v.register is not null
  ), neighbours as (
    select r.*, lag(r.register) over w as one, lag(r.observed_at) over w as one_at, lag(r.number) over w as one_number,
      lag(r.register, 2) over w as two, lag(r.observed_at, 2) over w as two_at, lag(r.number, 2) over w as two_number
    from registers r window w as (partition by r.device, r.field order by r.observed_at)
  ), limited as (
    select n.*,
      case when n.number - n.one_number <= 9 and n.observed_at - n.one_at <= gap then n.one end as before,
      case when n.number - n.two_number <= 9 and n.observed_at - n.two_at <= gap then n.two end as before_that,
      greatest(least_kwh, margin * coalesce(d.capacity_w, watts) / 3.6e6 * extract(epoch from n.observed_at - n.one_at)) as step_max,
      greatest(least_kwh, margin * coalesce(d.capacity_w, watts) / 3.6e6 * extract(epoch from n.observed_at - n.two_at)) as two_steps_max,
      case when n.one >= 1 then 10 ^ (floor(log(n.one)) + 1) end as capacity
    from neighbours n left join city.device d on d.device = n.device
  )
  select l.device, l.observed_at, l.field, l.register, l.before, l.before_that, l.capacity, l.step_max,
    case
      when l.before is null then 'first'
      -- The one before had fallen or leapt, and this one goes on from the one before that: the one before was wrong.
      when l.register between l.before_that and l.before_that + l.two_steps_max
        and (l.before < l.before_that or l.before > l.before_that + l.two_steps_max) then 'recovers'
      when l.register between l.before and l.before + l.step_max then 'counts'
      when l.register > l.before then 'implausible'
      when l.register >= 0 and l.capacity - l.before + l.register <= l.step_max then 'rollover'
      when l.register between 0 and l.step_max then 'reset'
      else 'backwards'
    end,
    l.number - l.two_number = 2 is true
  from limited l where l.is_target;
end $$;

-- Devices of which more than two readings before the targets are needed: one repeats the reading before it, or leaps from it, or
-- a register is not in both of the readings before. (And those with several readings for one instant: keep_last_received().)
create or replace function city.find_doubtful(of_kind text) returns void
language plpgsql as $$
begin
  insert into work_doubtful
  select o.device from work_order o join work_order p on p.device = o.device and p.number = o.number - 1
  where o.is_target and o.fingerprint = p.fingerprint
  union
  select n.device from work_order o
  join work_value n on n.device = o.device and n.observed_at = o.observed_at
  join work_value p on p.device = o.device and p.observed_at = o.previous_at and p.measure = n.measure
  join city.threshold t on t.name = 'jump.' || of_kind || '.' || n.measure
  where o.is_target and abs(n.value - p.value) > t.value
  union
  select device from work_register where not has_both
  union
  select o.device from work_order o join work_value v on v.device = o.device and v.observed_at = o.observed_at and v.measure = 'flow_veh_h' and v.value = 0
  where o.is_target and city.threshold_of('stuck.empty_readings') >= 1
  on conflict do nothing;
end $$;

