//! The PROXY protocol header of a balancer: any bytes are one or are refused, and no byte beyond it is read.
//!
//! What is read from a stream is what the whole header says. A header that is cut off is refused as well.
//!
//! ```text
//! cargo fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz -s none proxy_header
//! ```

#![no_main]

use std::cell::RefCell;

use citygate::listen::tcp::proxy;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: RefCell<Runtime> =
        RefCell::new(Builder::new_current_thread().enable_time().build().expect("a runtime"));
}

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let source = RUNTIME.with_borrow_mut(|runtime| runtime.block_on(proxy::source(&mut rest)));
    let header = &input[..input.len() - rest.len()];
    let parsed = proxy::parse(header);
    match source {
        Ok(source) => {
            let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
            assert_eq!(header.len(), 16 + length, "it is read whole, and nothing else");
            assert_eq!(source, parsed.expect("it is a header"));
        }
        Err(_) => drop(proxy::parse(input)),
    }
});
