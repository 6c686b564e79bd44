//! The pipeline without listeners, and with a Kafka that is unavailable, so that every
//! answer is known at once. A policy decides who may write, and its refusal is counted; an
//! answer may enter the pipeline again on the same thread.

use std::sync::Weak;
use std::task::{Context, Wake, Waker};

use super::*;
use crate::authorize::Anyone;
use crate::deliver::{self, Client, Sections};
use crate::message::{Policy, Protocol};
use crate::operate::clock::SystemClock;
use crate::operate::config::Config;
use crate::receipt::metrics::ReadingMetrics;
use crate::receipt::{Answer, Mailbox};

const ADDRESS: &str = "devices/roof-2/weather";
const GOOD: &[u8] = br#"{"temperature_c": 21.5}"#;

/// Answers readings *busy* at once, since Kafka is unavailable, and rejections too, since none are kept.
fn pipeline(access: Arc<dyn Authorize>) -> Pipeline {
    let mut config = Config::default();
    config.spool.enabled = false;
    config.kafka.bootstrap_servers = "127.0.0.1:1".into();
    let (tallies, metrics) = (Tallies::default(), deliver::Metrics::default());
    let kinds = Kinds::load(&config.schemas.folder, "", &tallies).unwrap();
    let catalogue = Catalogue::new(kinds);
    let asked = catalogue.clone();
    let topics = move || asked.snapshot().topics();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let client = Client::new(&config.kafka, false, &metrics.kafka).unwrap();
    let sections = Sections {
        kafka: &config.kafka,
        spool: &config.spool,
        replay: &config.replay,
    };
    Pipeline {
        validator: Validator::new(&config.clock),
        deliver: Deliver::start(sections, client, topics, &metrics, clock.clone()).unwrap(),
        catalogue,
        tallies: Arc::new(tallies),
        clock,
        access,
        forbidden_logged: Default::default(),
        over_rate_logged: Default::default(),
        recent_refusals: Default::default(),
        dead_letter_allowance: DeadLetterAllowance::new(0),
        batch_readings_max: 100,
    }
}

fn inbound(body: &[u8]) -> Inbound<'_> {
    Inbound {
        origin: Origin::anonymous(Protocol::Mqtt, "mqtt", ([127, 0, 0, 1], 4711).into()),
        path: ADDRESS,
        body,
        content_type: "",
        policy: Policy::default(),
    }
}

fn outcome_of(pipeline: &Pipeline, inbound: &Inbound<'_>) -> Outcome {
    let mailbox = Mailbox::new();
    let reply = Reply::To {
        mailbox: mailbox.clone(),
        ticket: 1,
    };
    pipeline.accept(inbound, None, reply);
    let mut answers = Vec::new();
    mailbox.take(&mut answers);
    match answers.pop() {
        Some((1, Answer::One(outcome))) => outcome,
        other => panic!("answered at once, and once: {other:?}"),
    }
}

const WAIT: Duration = Duration::from_secs(3);

/// One sender has sent too much; what is charged is written down.
#[derive(Debug, Default)]
struct Scales {
    charged: Mutex<Vec<(usize, usize)>>,
}

const TOO_MUCH: u16 = 4712;

impl Authorize for Scales {
    fn sender(&self, origin: &Origin<'_>) -> Permission {
        match origin.peer.port() {
            TOO_MUCH => Permission::OverRate(WAIT),
            _ => Permission::Granted,
        }
    }

    fn charge(&self, _origin: &Origin<'_>, readings: usize, bytes: usize) {
        self.charged.lock().unwrap().push((readings, bytes));
    }

    fn authorize(&self, _origin: &Origin<'_>, _device: &str, _kind: &str) -> Permission {
        Permission::Granted
    }
}

#[tokio::test]
async fn who_sends_too_much_is_refused_unless_it_is_not_read_meanwhile() {
    let scales = Arc::new(Scales::default());
    let pipeline = pipeline(scales.clone());
    let unavailable = Outcome::Busy(Busy::KafkaUnavailable);
    let check = |port: u16, is_paced: bool, body: &[u8], expected: &Outcome, charged: &[(usize, usize)]| {
        let mut message = inbound(body);
        message.origin.peer.set_port(port);
        message.policy.is_paced = is_paced;
        assert_eq!(outcome_of(&pipeline, &message), *expected, "{port} {is_paced}");
        assert_eq!(
            *std::mem::take(&mut *scales.charged.lock().unwrap()),
            *charged,
            "{port} {is_paced}"
        );
    };
    let whole = GOOD.len();
    check(1, false, GOOD, &unavailable, &[(1, whole)]);
    check(TOO_MUCH, false, GOOD, &Outcome::Busy(Busy::OverRate(WAIT)), &[]);
    check(TOO_MUCH, true, GOOD, &unavailable, &[(1, whole)]);
    let listed = pipeline.recent_refusals.list();
    assert_eq!(
        (listed.len(), listed[0].1.reason, listed[0].1.times),
        (1, "over_rate", 1)
    );
}

/// Denies by device, and checks what it is asked.
#[derive(Debug)]
struct Guard;

impl Authorize for Guard {
    fn authorize(&self, origin: &Origin<'_>, device: &str, kind: &str) -> Permission {
        assert_eq!((origin.listener, origin.peer.port(), kind), ("mqtt", 4711, "weather"));
        match device {
            "roof-1" => Permission::Forbidden("roof-1 is another sender's".to_owned()),
            "roof-2" => Permission::OverRate(WAIT),
            _ => Permission::Granted,
        }
    }
}

#[tokio::test]
async fn who_may_not_write_is_answered_so_and_the_law_holds() {
    let pipeline = pipeline(Arc::new(Guard));
    let check = |path: &str, body: &[u8], expected: &Outcome| {
        let message = Inbound { path, ..inbound(body) };
        assert_eq!(outcome_of(&pipeline, &message), *expected, "{path}");
    };
    let forbidden = Rejection::new(Reason::Forbidden, "roof-1 is another sender's").into();
    let over_rate = Outcome::Busy(Busy::OverRate(WAIT));
    // Decided before the body is looked at, and once for a batch.
    for body in [GOOD, b"not JSON", b""] {
        check("devices/roof-1/weather", body, &forbidden);
        check("devices/roof-2/weather/batch", body, &over_rate);
    }
    check("devices/roof-3/weather", GOOD, &Outcome::Busy(Busy::KafkaUnavailable));
    let totals = pipeline.tallies.totals(Protocol::Mqtt);
    assert_eq!((totals.received, totals.outcomes), (7, [0, 0, 3, 4]));
    let ReadingMetrics {
        readings_rejected_total: rejected,
        readings_busy_total: busy,
        ..
    } = &pipeline.tallies.metrics;
    assert_eq!(rejected.with_label_values(&["mqtt", "forbidden"]).get(), 3);
    assert_eq!(busy.with_label_values(&["mqtt", "over_rate"]).get(), 3);
}

/// A program that no schema compiles to stands for a bug.
#[tokio::test]
async fn a_panic_of_the_validator_is_one_readings_matter() {
    let pipeline = pipeline(Arc::new(Anyone));
    let good = pipeline.catalogue.snapshot();
    let broken = good.iter().map(|kind| {
        let definition = crate::catalogue::Definition {
            topic: kind.topic.clone(),
            name: kind.name.clone(),
            text: kind.text.clone(),
            schema: apache_avro::Schema::parse_str(&kind.text).unwrap(),
            prefix: Vec::new(),
        };
        let mut kind = Kind::compile(&definition, &pipeline.tallies).unwrap();
        kind.program.root = u32::MAX;
        kind
    });
    let broken: Kinds = broken.collect();
    pipeline.catalogue.replace(broken);
    for _ in 0..2 {
        assert_eq!(outcome_of(&pipeline, &inbound(GOOD)), Outcome::Busy(Busy::Dropped));
    }
    assert_eq!(pipeline.tallies.metrics.receipts_dropped_total.get(), 2);
    pipeline.catalogue.replace(Kinds::clone(&good));
    let answer = outcome_of(&pipeline, &inbound(GOOD));
    assert_eq!(answer, Outcome::Busy(Busy::KafkaUnavailable), "the thread goes on");
}

/// Sends another message as soon as it is woken, on the same thread.
struct Sender {
    pipeline: Weak<Pipeline>,
    body: &'static [u8],
    mailbox: Arc<Mailbox>,
}

impl Wake for Sender {
    fn wake(self: Arc<Self>) {
        let pipeline = self.pipeline.upgrade().unwrap();
        let mailbox = self.mailbox.clone();
        pipeline.accept(&inbound(self.body), None, Reply::To { mailbox, ticket: 2 });
    }
}

#[tokio::test]
async fn an_answer_that_is_known_at_once_may_enter_the_pipeline_again() {
    let pipeline = Arc::new(pipeline(Arc::new(Anyone)));
    for first in [GOOD, b"not JSON"] {
        for second in [GOOD, b"not JSON either"] {
            let (mailbox, again) = (Mailbox::new(), Mailbox::new());
            let waker = Waker::from(Arc::new(Sender {
                pipeline: Arc::downgrade(&pipeline),
                body: second,
                mailbox: again.clone(),
            }));
            let mut waits = std::pin::pin!(mailbox.wait());
            assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            let reply = Reply::To {
                mailbox: mailbox.clone(),
                ticket: 1,
            };
            pipeline.accept(&inbound(first), None, reply);
            let mut answers = Vec::new();
            mailbox.take(&mut answers);
            again.take(&mut answers);
            let tickets: Vec<_> = answers.iter().map(|(ticket, _)| *ticket).collect();
            assert_eq!(tickets, [1, 2]);
        }
    }
    assert_eq!(pipeline.tallies.in_flight_total(), 0);
}
