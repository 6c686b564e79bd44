//! The `Authorization` header of HTTP: any lines claim something or are refused, and what is claimed is what was sent.
//!
//! Each line of an input is one header; no more than one may be there.
//!
//! ```text
//! cargo fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz -s none authorization
//! ```

#![no_main]

use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use citygate::listen::http::authorization::Credentials;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let lines = input.split(|byte| *byte == b'\n');
    let lines: Vec<_> = lines.filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let mut headers = HeaderMap::new();
    for line in &lines {
        headers.append(header::AUTHORIZATION, line.clone());
    }
    match Credentials::of(&headers) {
        Ok(None) => assert!(lines.is_empty(), "nothing was sent"),
        Err(_) => assert!(!lines.is_empty(), "there is something to refuse"),
        Ok(Some(credentials)) => {
            assert_eq!(lines.len(), 1, "one claim alone");
            let line = lines[0].to_str().expect("it is text");
            let (_, value) = line.split_once(' ').expect("it has a scheme");
            let claim = credentials.claim();
            match claim.id {
                None => assert_eq!(claim.secret, value.trim().as_bytes()),
                Some(id) => {
                    let sent = [id.as_bytes(), b":", claim.secret].concat();
                    assert_eq!(BASE64_STANDARD.encode(sent), value.trim());
                }
            }
        }
    }
});
