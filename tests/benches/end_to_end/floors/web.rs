//! HTTP's floor: an axum handler that reads the body and answers 204. It runs on a
//! runtime like the gateway's, in a process of its own (this program, started with
//! another argument), so that its CPU time can be read from /proc.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;

use crate::process::Helper;

/// A running handler.
#[derive(Debug)]
pub struct Web {
    helper: Helper,
    pub address: String,
}

// === impl Web ===

impl Web {
    pub fn start() -> anyhow::Result<Web> {
        let child = Command::new(std::env::current_exe()?)
            .arg("web")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut helper = Helper(child);
        let said = helper.0.stdout.take().context("the handler says nothing")?;
        let mut address = String::new();
        BufReader::new(said).read_line(&mut address)?;
        let address = address.trim().to_owned();
        Ok(Web { helper, address })
    }

    pub fn pid(&self) -> u32 {
        self.helper.0.id()
    }
}

/// Serves until it is killed, on a runtime like the gateway's.
pub fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let router = Router::new().fallback(async |_body: Bytes| StatusCode::NO_CONTENT);
        axum::serve(listener, router).await.context("the handler has ended")
    })
}
