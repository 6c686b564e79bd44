//! The addresses of a gateway: bound before anything runs, so that they are known and reserved, and served later.
//!
//! One place knows all four listeners by name. What cannot be bound is noted, not returned: a start reports all that is
//! wrong together.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::metrics::Metrics;
use crate::listen::addresses::show;
use crate::listen::tls::Tls;
use crate::listen::{self, Context, coap, http, mqtt};
use crate::operate::admin;
use crate::operate::config::Config;

/// Where a gateway listens; the first address of each listener, and `None` for one that is not enabled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses {
    pub mqtt: Option<SocketAddr>,
    pub coap: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    pub mqtt_tls: Option<SocketAddr>,
    pub http_tls: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub admin_tls: Option<SocketAddr>,
}

/// Bound addresses that do not serve yet.
#[derive(Debug, Default)]
pub struct Bound {
    mqtt: Option<mqtt::Bound>,
    coap: Option<coap::Bound>,
    http: Option<http::Bound>,
    admin: Option<admin::Bound>,
}

// === impl Bound ===

impl Bound {
    /// Binds every enabled listener; adds to `errors` what cannot be bound.
    pub async fn bind(config: &Config, errors: &mut Vec<listen::Error>) -> Self {
        let mut bound = Bound::default();
        if config.mqtt.enabled {
            bound.mqtt = kept(mqtt::bind(&config.mqtt).await, errors);
        }
        if config.coap.enabled {
            bound.coap = kept(coap::bind(&config.coap).await, errors);
        }
        if config.http.enabled {
            bound.http = kept(http::bind(&config.http).await, errors);
        }
        if config.admin.enabled {
            bound.admin = kept(admin::bind(&config.admin).await, errors);
        }
        bound
    }

    pub(super) fn addresses(&self) -> Addresses {
        Addresses {
            mqtt: self.mqtt.as_ref().map(|bound| bound.addresses()[0]),
            coap: self.coap.as_ref().map(|bound| bound.addresses()[0]),
            http: self.http.as_ref().map(|bound| bound.addresses()[0]),
            mqtt_tls: self.mqtt.as_ref().and_then(|bound| bound.tls().0),
            http_tls: self.http.as_ref().and_then(|bound| bound.tls().0),
            admin: self.admin.as_ref().map(|bound| bound.addresses()[0]),
            admin_tls: self.admin.as_ref().and_then(|bound| bound.tls().0),
        }
    }

    /// What to say of the TLS files of its listeners.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.tls().into_iter().flat_map(|tls| tls.warnings())
    }

    fn tls(&self) -> Vec<Arc<Tls>> {
        let mqtt = self.mqtt.as_ref().and_then(|bound| bound.tls().1);
        let http = self.http.as_ref().and_then(|bound| bound.tls().1);
        let admin = self.admin.as_ref().and_then(|bound| bound.tls().1);
        mqtt.into_iter().chain(http).chain(admin).cloned().collect()
    }

    /// All addresses of MQTT, CoAP, HTTP and the admin port, as people read them.
    pub(super) fn listening(&self) -> [String; 4] {
        [
            self.mqtt.as_ref().map(mqtt::Bound::listening),
            self.coap.as_ref().map(|bound| show(bound.addresses())),
            self.http.as_ref().map(http::Bound::listening),
            self.admin.as_ref().map(admin::Bound::listening),
        ]
        .map(|addresses| addresses.unwrap_or_else(|| "off".to_owned()))
    }

    /// Starts every listener; returns the admin port's task, which outlives the others.
    pub(super) fn serve(
        self,
        front: &Context,
        metrics: &Metrics,
        closing: CancellationToken,
    ) -> Result<Option<JoinHandle<()>>, listen::Error> {
        let [mqtt, coap, http, admin] = self.listening();
        let listeners = json!({ "mqtt": mqtt, "coap": coap, "http": http, "admin": admin });
        let shown = admin::Shown {
            registry: metrics.registry.clone(),
            metrics: metrics.admin.clone(),
            listeners,
            tls: self.tls(),
        };
        if let Some(coap) = self.coap {
            coap.serve(front.clone())?;
        }
        if let Some(mqtt) = self.mqtt {
            mqtt.serve(front.clone());
        }
        if let Some(http) = self.http {
            http.serve(front.clone());
        }
        // Outside the tracker: it must answer until the drain is over.
        let admin = self.admin;
        Ok(admin.map(|admin| TaskTracker::new().spawn(admin.serve(front.clone(), shown, closing))))
    }
}

fn kept<T>(result: Result<T, listen::Error>, errors: &mut Vec<listen::Error>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
}
