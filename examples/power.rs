//! The long form of the test `power`: crash states by the million, and a thousand power cuts.
//!
//! ```text
//! cargo run --release --features sqlite,faults --example power -- --states 10000000 --cuts 1000
//! ```

#[path = "../tests/power/main.rs"]
mod power;

fn main() {
    power::main();
}
