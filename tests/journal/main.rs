//! The journal's promises, from the outside: what survives, what is refused, what is bounded.

mod acks;
mod backends;
mod basics;
mod bounds;
mod common;
#[cfg(feature = "faults")]
mod controls;
mod damage;
mod disk;
mod letters;
mod opening;
mod shutdown;
mod values;
