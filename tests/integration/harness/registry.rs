//! What answers where a schema registry, or an Alertmanager, should be: one that behaves as told, over HTTP/1.1.
//!
//! A test says what is answered to a path, and sees what was asked, with its `Authorization` and body.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Status, content type, body.
pub type Answer = (u16, &'static str, String);

type Answers = Box<dyn Fn(&str) -> Answer + Send>;

pub struct FakeRegistry {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    answers: Answers,
    asked: Vec<Asked>,
    is_stopped: bool,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub authorization: Option<String>,
    pub body: Vec<u8>,
}

/// As a registry answers that accepts everything, with the same id.
pub fn accepting(path: &str, id: u32) -> Answer {
    let body = match path.contains("compatibility") {
        true => r#"{"is_compatible": true}"#.to_owned(),
        false => format!(r#"{{"id": {id}}}"#),
    };
    (200, "application/vnd.schemaregistry.v1+json", body)
}

/// As a proxy answers that sends everybody elsewhere.
pub fn redirecting(to: &str) -> impl Fn(&str) -> Answer + Send + use<> {
    always(302, "text/plain", to)
}

/// The same for every path.
pub fn always(status: u16, content_type: &'static str, body: &str) -> impl Fn(&str) -> Answer + Send + use<> {
    let body = body.to_owned();
    move |_| (status, content_type, body.clone())
}

impl FakeRegistry {
    /// Serves until it is stopped, or the process ends.
    pub fn start(answers: impl Fn(&str) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            answers: Box::new(answers),
            asked: Vec::new(),
            is_stopped: false,
        }));
        let served = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = served.clone();
                if locked(&state).is_stopped {
                    return;
                }
                // A client that leaves is no failure of the test.
                std::thread::spawn(move || serve(stream, &state).ok());
            }
        });
        FakeRegistry { address, state }
    }

    /// From now on connections are refused.
    pub fn stop(&self) {
        self.state().is_stopped = true;
        // Whoever waits for the next connection sees it; then the port is closed.
        while TcpStream::connect(self.address).is_ok() {
            std::thread::yield_now();
        }
    }

    /// Answers otherwise from now on.
    pub fn change(&self, answers: impl Fn(&str) -> Answer + Send + 'static) {
        self.state().answers = Box::new(answers);
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// Requests that would register a schema.
    pub fn registrations(&self) -> usize {
        let asked = self.asked();
        asked
            .iter()
            .filter(|asked| asked.path.starts_with("/subjects/"))
            .count()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut length, mut authorization) = (0, None);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(": ") else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap_or(0),
                "authorization" => authorization = Some(value.to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let (status, content_type, body) = {
            let mut state = locked(state);
            state.asked.push(Asked {
                path: path.clone(),
                authorization,
                body,
            });
            (state.answers)(&path)
        };
        let bytes = body.len();
        // Where a redirect leads is its body as well.
        let location = match status {
            300..400 => format!("location: {body}\r\n"),
            _ => String::new(),
        };
        write!(
            writer,
            "HTTP/1.1 {status} X\r\n{location}content-type: {content_type}\r\ncontent-length: {bytes}\r\n\r\n{body}"
        )?;
    }
}
